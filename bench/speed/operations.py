"""The cost of a network's operations, one by one: counted without computing anything, or timed.

Both use the hook with which the Core ML exporter records operations (`mlx_sd.networks.ops.recording`), so that the
operations counted are those that run, with DeepCache and T-GATE too.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from coreml.lowering.graph import macs
from mlx_sd.networks import ops

BETWEEN = "between"  # additions, concatenations and copies from one operation to the next


class Operation(NamedTuple):
    """One operation as it ran, or as it would run."""

    op: str  # its name in `mlx_sd.networks.ops`, or BETWEEN
    layer: str  # the layer it belongs to, or the last before it
    macs: int
    bytes: int  # read and written, each array once
    seconds: float = 0.0

    @property
    def level(self) -> str:
        """Returns the part of the UNet's figure: down.0, middle, up.11, or the layer outside of the paths."""
        path, *segments = self.layer.split(".")
        return f"{path}.{segments[1]}" if path in ("down", "up") else path


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

    with _listing(network, lambda *call: (zeros(*call), 0.0)) as operations:
        yield operations


@contextmanager
def timing(network: nn.Module) -> Iterator[list[Operation]]:
    """Lists each operation with its seconds, while open; each is waited for."""

    def timed(name: str, function: Callable[..., mx.array], arrays: Any, attributes: Any) -> tuple[mx.array, float]:
        """Runs one operation after its inputs are computed; returns its output and its seconds."""
        clock = time.perf_counter()
        mx.eval([a for a in arrays if a is not None])
        between = time.perf_counter() - clock
        clock = time.perf_counter()
        y = function(*arrays, **attributes)
        mx.eval(y)
        seconds = time.perf_counter() - clock
        if operations:
            operations.append(Operation(BETWEEN, operations[-1].layer, 0, 0, between))
        return y, seconds

    with _listing(network, timed) as operations:
        yield operations


@contextmanager
def _listing(network: nn.Module, run: Callable[..., tuple[mx.array, float]]) -> Iterator[list[Operation]]:
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


def totals(operations: Iterable[Operation], key: Callable[[Operation], str]) -> dict[str, Operation]:
    """Sums up operations of the same key; keys are in the order of their first operations."""
    sums: dict[str, Operation] = {}
    for o in operations:
        name = key(o)
        total = sums.get(name, Operation(name, name, 0, 0))
        sums[name] = Operation(name, name, total.macs + o.macs, total.bytes + o.bytes, total.seconds + o.seconds)
    return sums
