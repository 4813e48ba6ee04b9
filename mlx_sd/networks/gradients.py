"""Functions that come with their own gradient, and the one place where a recorder of graphs sees them.

MLX records neither functions with a gradient of their own nor compiled ones, so `recording` hands these, and gradients
taken inside them, to another; see `mlx_sd/train/memory/tracing.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import mlx.core as mx

Function = Callable[..., mx.array]
# (arguments, cotangent of the result, result) -> gradients of the arguments
Gradient = Callable[[Sequence[mx.array], mx.array, mx.array], Sequence[mx.array]]


class Recorder(Protocol):
    """What is called in the place of MLX while a graph is recorded."""

    def call(self, function: Function, gradient: Gradient, arrays: Sequence[mx.array]) -> mx.array:
        """Returns function(*arrays), whose gradient is `gradient`."""

    def vjp(self, function: Function, arrays: Sequence[mx.array], cotangent: mx.array) -> list[mx.array]:
        """Returns the gradients of function(*arrays)."""

    def fused(self, parts: Function, arrays: Sequence[mx.array]) -> mx.array:
        """Returns parts(*arrays), of the shape of the first of them, as one kernel."""

    def contiguous(self, x: mx.array) -> mx.array:
        """Returns x with its elements in a row."""

    def stopped(self) -> AbstractContextManager[None]:
        """Computes what no gradient is taken of while it is open."""


_recorder: Recorder | None = None


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Hands functions with their own gradient to a recorder while it is open."""
    global _recorder
    before, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = before


def call(function: Function, gradient: Gradient, *arrays: mx.array) -> mx.array:
    """Returns function(*arrays), an array whose gradient is what `gradient` computes."""
    if _recorder is not None:
        return _recorder.call(function, gradient, arrays)

    def of_mlx(primals: Any, cotangent: mx.array, y: mx.array) -> Any:
        """Returns the gradients in the form in which MLX takes them: that of the only argument is no sequence."""
        gradients = gradient(list(primals) if len(arrays) > 1 else [primals], cotangent, y)
        return tuple(gradients) if len(arrays) > 1 else gradients[0]

    differentiable: Any = mx.custom_function(function)
    differentiable.vjp(of_mlx)
    y: mx.array = differentiable(*arrays)
    return y


def vjp(function: Function, arrays: Sequence[mx.array], cotangent: mx.array) -> list[mx.array]:
    """Returns the gradients of function(*arrays) for the cotangent of its result, one for each array."""
    if _recorder is not None:
        return _recorder.vjp(function, arrays, cotangent)
    gradients: list[mx.array] = mx.vjp(function, list(arrays), [cotangent])[1]
    return gradients


def fused(kernel: Function, parts: Function, *arrays: mx.array) -> mx.array:
    """Returns kernel(*arrays), an elementwise function that MLX has compiled; parts: the same as it was before."""
    return kernel(*arrays) if _recorder is None else _recorder.fused(parts, arrays)


def contiguous(x: mx.array) -> mx.array:
    """Returns x with its elements in a row, an operation that MLX does not record either."""
    return mx.contiguous(x) if _recorder is None else _recorder.contiguous(x)


def stopped() -> AbstractContextManager[None]:
    """Computes what no gradient is taken of while it is open; `mx.stop_gradient` sees to that, not this."""
    return nullcontext() if _recorder is None else _recorder.stopped()
