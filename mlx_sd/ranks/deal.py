"""Parts of one computation, dealt out over ranks: each computes its share, and every rank gets all results in order."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from .exchange import Ranks  # which one process has no use for


class Deal:
    """One process, whose share is everything and which exchanges nothing; see `Dealt`."""

    size = 1  # ranks that have a share

    def share(self, count: int) -> range:
        """Returns the numbers of the parts, of `count`, that this rank computes."""
        return range(count)

    def collect(self, results: Sequence[mx.array], shapes: Sequence[Sequence[int]], dtype: mx.Dtype) -> list[mx.array]:
        """Returns the results of all parts, evaluated; results: of this rank's share.

        shapes: of all results; dtype: of each.
        """
        return list(results)

    def collect_rows(self, array: mx.array, copies: int, count: int) -> mx.array:
        """Returns all rows (copies * count, ...) of a batch, of this rank's (share * count, ...).

        count: rows of each of so many copies.
        """
        return array

    def evaluate(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        """Returns arrays that are not evaluated yet, evaluated one at a time, each by the rank whose share it is in."""
        for array in arrays:
            mx.eval(array)
        return list(arrays)


class Dealt(Deal):
    """Parts dealt out in runs of nearly equal length; where there are fewer parts than ranks, the last have none."""

    def __init__(self, ranks: "Ranks"):
        self._ranks, self.size = ranks, ranks.size

    def share(self, count: int) -> range:
        """Returns the numbers of the parts, of `count`, that this rank computes."""
        return share_of(self._ranks.rank, self.size, count)

    def collect(self, results: Sequence[mx.array], shapes: Sequence[Sequence[int]], dtype: mx.Dtype) -> list[mx.array]:
        """Returns the results of all parts, exchanged in one array of each rank; see `Deal.collect`."""
        numbers = [math.prod(shape) for shape in shapes]
        shares = [share_of(rank, self.size, len(shapes)) for rank in range(self.size)]
        longest = max(sum(numbers[i] for i in share) for share in shares)
        flat = [result.reshape(-1) for result in results]
        padding = longest - sum(array.size for array in flat)
        gathered = self._ranks.gather(mx.concatenate([*flat, *([mx.zeros(padding, dtype)] if padding else [])]))
        collected = []
        for rank, share in enumerate(shares):
            begin = 0
            for i in share:
                collected.append(gathered[rank, begin : begin + numbers[i]].reshape(shapes[i]))
                begin += numbers[i]
        return collected

    def collect_rows(self, array: mx.array, copies: int, count: int) -> mx.array:
        """Returns all rows of a batch, exchanged; see `Deal.collect_rows`."""
        results = [array[i : i + count] for i in range(0, array.shape[0], count)]
        return mx.concatenate(self.collect(results, [(count, *array.shape[1:])] * copies, array.dtype))

    def evaluate(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        """Returns arrays of one dtype, each evaluated by one rank; see `Deal.evaluate`."""
        results = []
        for i in self.share(len(arrays)):
            mx.eval(arrays[i])
            results.append(arrays[i])
        return self.collect(results, [array.shape for array in arrays], arrays[0].dtype)


def share_of(rank: int, ranks: int, count: int) -> range:
    """Returns the numbers of the parts, of `count`, that one of so many ranks computes: a run of them."""
    least, more = divmod(count, ranks)
    begin = rank * least + min(rank, more)
    return range(begin, begin + least + (rank < more))
