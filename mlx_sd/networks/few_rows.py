"""A part of a batch, computed to the last bit as it comes out of the batch.

Libraries multiply matrices of few rows in other ways than matrices of many: the sums of MKL come out alike for one to
three rows, and alike for four and more, but not between the two (on Intel's processors, where MKL follows its strict
mode, which `core/blas.py` asks for, they always come out alike). So where the batch has more rows than that and a part
of it has fewer, as in the layers that see one vector a picture, and in convolutions of so small pictures that few
positions are left, the part is repeated.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil, prod
from typing import Any

import mlx.core as mx

from . import ops

_FEW = 4  # rows from which on their number makes no difference
_PRODUCTS = ("linear", "quantized_linear", "conv2d")


@contextmanager
def part_of_batch(rows: int, batch: int) -> Iterator[None]:
    """Computes networks on so many rows of a batch as they come out of all its rows, while open."""
    if rows == batch or not rows:
        yield
        return

    def run(name: str, function: Callable[..., mx.array], arrays: Any, attributes: dict[str, Any]) -> mx.array:
        """Runs an operation, on repeated rows where these are few."""
        x, *others = arrays
        if name in _PRODUCTS and x.shape[0] == rows:
            products = _positions(x, others[0], **attributes) if name == "conv2d" else prod(x.shape[:-1])
            if products < _FEW <= products // rows * batch:
                repeated = mx.concatenate([x] * ceil(batch / rows))
                return function(repeated, *others, **attributes)[:rows]
        return function(*arrays, **attributes)

    with ops.recording(run):
        yield


def _positions(x: mx.array, weight: mx.array, *, stride: int, padding: int) -> int:
    """Returns the number of rows of the product that a convolution of x (N, h, w, C) is: one for each output pixel."""
    sides = zip(x.shape[1:3], weight.shape[1:3], strict=True)
    return x.shape[0] * prod((side + 2 * padding - kernel) // stride + 1 for side, kernel in sides)
