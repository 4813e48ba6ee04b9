"""What adapters add beside a layer at run time: the layer's own weight, also a quantized one, stays as it is.

    y = layer(x)  +  ((x A) s) B  +  the sum of s_k D_k(x)

A and B hold the low-rank factors of all adapters side by side, and s their scales, each as often as its rank: a scale
is an input, and to change it nothing is loaded again.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import mlx.core as mx
import mlx.nn as nn

from . import ops

Apply = Callable[[mx.array, mx.array], mx.array]  # (x, weight) -> the layer's own product or convolution with a weight


class Difference(Protocol):
    """A difference of a weight that has no low rank."""

    def __call__(self, x: mx.array, apply: Apply) -> mx.array:
        """Returns what it makes of x, unscaled."""
        ...


class Dense(NamedTuple):
    """A difference that is kept whole."""

    weight: mx.array  # of the layer's shape

    def __call__(self, x: mx.array, apply: Apply) -> mx.array:
        """Returns the product of x with the difference."""
        return apply(x, self.weight)


class Kronecker(NamedTuple):
    """The Kronecker product of two matrices (LoKr), by two small products: (a x b) x = vec(b X a^T)."""

    first: mx.array  # (o1, i1)
    second: mx.array  # (o2, i2)

    def __call__(self, x: mx.array, apply: Apply) -> mx.array:
        """Returns the product of x (..., i1 i2) with the difference, (..., o1 o2)."""
        cells = x.reshape(*x.shape[:-1], self.first.shape[1], self.second.shape[1])
        y = ops.linear(cells, self.second)
        y = mx.swapaxes(ops.linear(mx.swapaxes(y, -1, -2), self.first), -1, -2)
        return y.reshape(*x.shape[:-1], self.first.shape[0] * self.second.shape[0])


class Pair(NamedTuple):
    """The factors of a low-rank difference, with the adapter's own scaling in the second."""

    down: mx.array  # (rank, in), or of a convolution (rank, h, w, in)
    up: mx.array  # (out, rank)


class Beside:
    """What the adapters of a model add beside one layer; called as `layer.beside`."""

    def __init__(self, pairs: Sequence[tuple[int, Pair]], others: Sequence[tuple[int, Difference]]):
        """Stacks the pairs; each difference stands with the number of its adapter."""
        self._owners = [number for number, pair in pairs for _ in range(pair.down.shape[0])]
        self._others = list(others)
        self._scales, self._other_scales = mx.ones((len(self._owners),)), [1.0] * len(self._others)
        self._down = mx.concatenate([pair.down for _, pair in pairs]) if pairs else None
        self._up = mx.concatenate([pair.up for _, pair in pairs], axis=1) if pairs else None
        mx.eval([array for array in (self._down, self._up) if array is not None])

    def scale(self, scales: Sequence[float]) -> bool:
        """Takes the scale of each adapter; returns whether any of those here is not 0."""
        self._scales = mx.array([scales[number] for number in self._owners], dtype=mx.float32)
        self._other_scales = [scales[number] for number, _ in self._others]
        return any(scales[number] for number in {*self._owners, *(number for number, _ in self._others)})

    def __call__(self, x: mx.array, apply: Apply) -> mx.array:
        """Returns what is added to the layer's output for x; apply: the layer's own product with another weight."""
        total = None
        if self._down is not None and self._up is not None:
            total = ops.linear(apply(x, self._down) * self._scales.astype(x.dtype), self._up)
        for (_, difference), scale in zip(self._others, self._other_scales, strict=True):
            if scale:
                y = scale * difference(x, apply)
                total = y if total is None else total + y
        assert total is not None
        return total


def added(layer: nn.Module, x: mx.array, y: mx.array, apply: Apply) -> mx.array:
    """Returns a layer's output y with what adapters add for x, y itself where there are none."""
    beside: Beside | None = layer.beside
    return y if beside is None else y + beside(x, apply)
