"""The operations of a network, one by one, counted without computing anything: shapes alone matter.

The hook with which the Core ML exporter records operations (`ops.recording`) is used, so that the operations counted
are those that run, with DeepCache and T-GATE too.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from . import ops


class Operation(NamedTuple):
    """One operation as it ran, or as it would run."""

    op: str  # its name in `mlx_sd.networks.ops`
    layer: str  # the layer it belongs to, or the last before it
    macs: int
    bytes: int  # read and written, each array once
    seconds: float = 0.0

    @property
    def level(self) -> str:
        """Returns the part of the UNet's figure: down.0, middle, up.11, or the layer outside of the paths."""
        path, *segments = self.layer.split(".")
        return f"{path}.{segments[1]}" if path in ("down", "up") else path


def macs(op: str, inputs: Sequence[Sequence[int]], output: Sequence[int]) -> int:
    """Counts the multiply-accumulates of an operation of `mlx_sd.networks.ops` from shapes.

    conv2d: output (B, H, W, out), weight (out, kh, kw, in). linear: input (..., in), weight (out, in). attention:
    queries and keys (B, heads, tokens, dim), for both matrix products. Any other operation counts as 0.
    """
    if op == "conv2d":
        return math.prod(output) * math.prod(inputs[1][1:])
    if op == "linear":
        return math.prod(inputs[0]) * inputs[1][0]
    if op == "attention":
        return 2 * math.prod(inputs[0]) * inputs[1][2]
    return 0


@contextmanager
def counting(network: nn.Module) -> Iterator[list[Operation]]:
    """Lists operations without computing them, while open: each gives zeros of the right shape."""
    outputs: dict[Any, tuple[tuple[int, ...], mx.Dtype]] = {}

    def zeros(name: str, function: Callable[..., mx.array], arrays: Any, attributes: dict[str, Any]) -> mx.array:
        """Returns zeros of the shape and type that the function would give."""
        key = name, tuple(a if a is None else (*a.shape, a.dtype) for a in arrays), tuple(attributes.items())
        if key not in outputs:
            lazy = function(*arrays, **attributes)  # never evaluated
            outputs[key] = tuple(lazy.shape), lazy.dtype
        return mx.zeros(*outputs[key])

    with listing(network, lambda *call: (zeros(*call), 0.0)) as operations:
        yield operations


@contextmanager
def listing(network: nn.Module, run: Callable[..., tuple[mx.array, float]]) -> Iterator[list[Operation]]:
    """Lists operations while open, each done by `run(name, function, arrays, attributes) -> (output, seconds)`."""
    parameters: Any = tree_flatten(network.parameters())
    layers = {id(array): name.rpartition(".")[0] for name, array in parameters}
    operations: list[Operation] = []

    def record(name: str, function: Callable[..., mx.array], arrays: Any, attributes: dict[str, Any]) -> mx.array:
        """Runs one operation through `run` and lists it."""
        last = operations[-1].layer if operations else ""
        layer = next((layers[id(a)] for a in arrays if id(a) in layers), last)
        y, seconds = run(name, function, arrays, attributes)
        inputs = [a for a in arrays if a is not None]
        count = macs(name, [a.shape for a in inputs], y.shape)
        operations.append(Operation(name, layer, count, sum(a.nbytes for a in (*inputs, y)), seconds))
        return y

    with ops.recording(record):
        yield operations
