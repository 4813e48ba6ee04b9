"""The cost of a network's operations, timed one by one.

The operations are those that `mlx_sd.networks.counting` lists, so that those timed are those that run, with DeepCache
and T-GATE too.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_sd.networks.counting import Operation, listing

BETWEEN = "between"  # additions, concatenations and copies from one operation to the next


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

    with listing(network, timed) as operations:
        yield operations


def totals(operations: Iterable[Operation], key: Callable[[Operation], str]) -> dict[str, Operation]:
    """Sums up operations of the same key; keys are in the order of their first operations."""
    sums: dict[str, Operation] = {}
    for o in operations:
        name = key(o)
        total = sums.get(name, Operation(name, name, 0, 0))
        sums[name] = Operation(name, name, total.macs + o.macs, total.bytes + o.bytes, total.seconds + o.seconds)
    return sums
