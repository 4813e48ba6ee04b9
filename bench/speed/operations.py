"""What a network's operations cost, one by one: counted without computing anything, or timed.

Both look through the seam at which Core ML's exporter records (`mlx_sd.ops.recording`), so that whatever runs is what
is counted, DeepCache and T-GATE included.
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
    """One operation as it ran, or would have."""

    op: str  # as `mlx_sd.ops` calls it, or BETWEEN
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
    """While open, operations are listed and not computed: all of them give zeros of the right shape."""
    said: dict[Any, tuple[tuple[int, ...], mx.Dtype]] = {}

    def zeros(name: str, function: Callable[..., mx.array], arrays: Any, attributes: dict[str, Any]) -> mx.array:
        key = name, tuple(a if a is None else (*a.shape, a.dtype) for a in arrays), tuple(attributes.items())
        if key not in said:
            like = function(*arrays, **attributes)
            said[key] = tuple(like.shape), like.dtype
        return mx.zeros(*said[key])

    with _listing(network, lambda *call: (zeros(*call), 0.0)) as found:
        yield found


@contextmanager
def timing(network: nn.Module) -> Iterator[list[Operation]]:
    """While open, each operation is listed with its seconds, and waited for."""

    def timed(name: str, function: Callable[..., mx.array], arrays: Any, attributes: Any) -> tuple[mx.array, float]:
        clock = time.perf_counter()
        mx.eval([a for a in arrays if a is not None])
        between = time.perf_counter() - clock
        clock = time.perf_counter()
        y = function(*arrays, **attributes)
        mx.eval(y)
        seconds = time.perf_counter() - clock
        if found:
            found.append(Operation(BETWEEN, found[-1].layer, 0, 0, between))
        return y, seconds

    with _listing(network, timed) as found:
        yield found


@contextmanager
def _listing(network: nn.Module, run: Callable[..., tuple[mx.array, float]]) -> Iterator[list[Operation]]:
    parameters: Any = tree_flatten(network.parameters())
    layers = {id(array): name.rpartition(".")[0] for name, array in parameters}
    found: list[Operation] = []

    def record(name: str, function: Callable[..., mx.array], arrays: Any, attributes: dict[str, Any]) -> mx.array:
        last = found[-1].layer if found else ""
        layer = next((layers[id(a)] for a in arrays if id(a) in layers), last)
        y, seconds = run(name, function, arrays, attributes)
        given = [a for a in arrays if a is not None]
        count = macs(name, [a.shape for a in given], y.shape)
        found.append(Operation(name, layer, count, sum(a.nbytes for a in (*given, y)), seconds))
        return y

    with ops.recording(record):
        yield found


def totals(operations: Iterable[Operation], key: Callable[[Operation], str]) -> dict[str, Operation]:
    """Sums by what `key` says, in the order in which it first says it."""
    found: dict[str, Operation] = {}
    for o in operations:
        name = key(o)
        was = found.get(name, Operation(name, name, 0, 0))
        found[name] = was._replace(macs=was.macs + o.macs, bytes=was.bytes + o.bytes, seconds=was.seconds + o.seconds)
    return found
