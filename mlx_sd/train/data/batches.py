"""The order of batches: a function of seed and epoch alone."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from ...core.errors import InputError
from .buckets import Size

_Item = TypeVar("_Item")


class Batch(NamedTuple):
    """Examples of one bucket that are trained on together, as indices."""

    size: Size  # to which all of them are cropped
    instances: tuple[int, ...]
    priors: tuple[int, ...] = ()  # as many as instances where there are pictures of the class, else none

    @property
    def indices(self) -> tuple[int, ...]:
        """Returns the instances and behind them the priors."""
        return self.instances + self.priors


def batches(
    sizes: Sequence[Size],
    batch: int,
    *,
    seed: int,
    epoch: int,
    repeats: Sequence[int] | None = None,
    prior: Sequence[bool] | None = None,
) -> list[Batch]:
    """Returns the batches of an epoch, each of `batch` instances of one bucket.

    sizes: the bucket of each example. repeats: how often an epoch has each example; None is once. prior: which examples
    are pictures of the class (DreamBooth's prior preservation): each batch gets `batch` of them beside its instances,
    from its own bucket or, where that has none, from the one with the nearest aspect ratio; they are to be cropped to
    the batch's size. The last batch of each bucket is filled up with further examples of the bucket, so that shapes are
    constant: an example occurs at least `repeats` times, and a bucket has fewer than `batch` examples too many. The
    number of batches is the same in all epochs. Raises InputError where there is nothing to train on.
    """
    if batch < 1:
        raise InputError(f"a batch must have at least 1 picture, not {batch}")
    times = [1] * len(sizes) if repeats is None else repeats
    of_class = [False] * len(sizes) if prior is None else prior
    instances = _by_bucket(sizes, times, [not flag for flag in of_class])
    if not instances:
        raise InputError("no picture is left to train on: all are of the class, or repeated 0 times")
    priors = _by_bucket(sizes, times, of_class)
    salt = f"{seed}/{epoch}"
    result = [
        Batch(size, chunk)
        for size, members in sorted(instances.items())
        for chunk in _chunks(members, batch, f"{salt}/{size}")
    ]
    result = _shuffled(result, f"{salt}/batches")
    if not priors:
        return result
    cycles = {size: _cycle(priors[_nearest(size, priors)], f"{salt}/{size}/priors") for size in instances}
    return [entry._replace(priors=tuple(itertools.islice(cycles[entry.size], batch))) for entry in result]


def _by_bucket(sizes: Sequence[Size], repeats: Sequence[int], selected: Sequence[bool]) -> dict[Size, list[int]]:
    """Returns the indices of the selected examples by bucket, each as often as it is repeated."""
    table: dict[Size, list[int]] = {}
    for i, (size, times, flag) in enumerate(zip(sizes, repeats, selected, strict=True)):
        if flag and times > 0:
            table.setdefault(size, []).extend([i] * times)
    return table


def _chunks(members: list[int], batch: int, salt: str) -> Iterator[tuple[int, ...]]:
    """Yields the members in random order, `batch` at a time; the last chunk is filled up, at first with others."""
    order = _shuffled(members, salt)
    partial = order[len(order) - len(order) % batch :]
    if partial:
        examples = _shuffled(sorted(set(members)), f"{salt}/filling")
        examples.sort(key=partial.__contains__)  # those that are not in it come first
        order += itertools.islice(itertools.cycle(examples), batch - len(partial))
    for start in range(0, len(order), batch):
        yield tuple(order[start : start + batch])


def _cycle(members: list[int], salt: str) -> Iterator[int]:
    """Yields the members without end, in another order each time round."""
    for turn in itertools.count():
        yield from _shuffled(members, f"{salt}/{turn}")


def _nearest(size: Size, table: dict[Size, list[int]]) -> Size:
    """Returns the bucket of a table that is `size`, else that with the nearest aspect ratio."""
    aspect = size[0] / size[1]
    return min(table, key=lambda other: (other != size, abs(math.log(other[0] / other[1] / aspect)), other))


def _shuffled(items: Sequence[_Item], salt: str) -> list[_Item]:
    """Returns items in the order of a hash of salt and position: the same in every version of every library."""
    digests = [hashlib.blake2b(f"{salt}/{i}".encode(), digest_size=16).digest() for i in range(len(items))]
    return [items[i] for i in sorted(range(len(items)), key=digests.__getitem__)]
