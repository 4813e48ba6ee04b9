"""The batches of a run by several ranks: who makes each first, and which are left."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..jobs import State
from .making import model_key
from .plan import Draft

_Identity = tuple[int, int, int]


@dataclass(eq=False)
class Unit:
    """Pictures that go through the UNet together, and the rank that makes them unless another is faster."""

    drafts: Sequence[Draft]  # without those that are there already
    owner: int
    chunk: "Chunk"


class Chunk:
    """Pictures of one model whose requests are in memory together; all ranks cut it into the same batches."""

    def __init__(self, drafts: Sequence[Draft]):
        self.drafts, self.model = drafts, model_key(drafts[0].template)
        self.units: list[Unit] = []
        self.unit_of: dict[int, Unit] = {}  # by the index in drafts


class Units:
    """All batches of a run, dealt out in turn; those that were made are forgotten."""

    def __init__(self, drafts: Sequence[Draft], chunks: Sequence[Sequence[Sequence[int]]], ranks: int):
        """chunks: batches of indices of drafts, which are decided; ranks: how many there are."""
        self._before = {draft.picture.number: _before(draft) for draft in drafts}
        self._made: set[int] = set()
        self.chunks: list[Chunk] = []
        number = 0
        for batches in chunks:
            chunk = Chunk([drafts[i] for batch in batches for i in batch])
            first = 0
            for batch in batches:
                pending = [drafts[i] for i in batch if drafts[i].state is not State.DONE]
                unit = Unit(pending, number % ranks, chunk)
                chunk.units.append(unit)
                chunk.unit_of |= dict.fromkeys(range(first, first + len(batch)), unit)
                first += len(batch)
                number += 1
            self.chunks.append(chunk)
        self.left = [unit for chunk in self.chunks for unit in chunk.units if unit.drafts]

    def is_made(self, draft: Draft) -> bool:
        """Returns whether a picture was written since the run began, by whichever rank."""
        number = draft.picture.number
        if number in self._made:
            return True
        if (identity := _identity(draft.target)) is None or identity == self._before[number]:
            return False
        self._made.add(number)
        return True

    def is_done(self, unit: Unit) -> bool:
        """Returns whether all pictures of a unit were written."""
        return all(self.is_made(draft) for draft in unit.drafts)

    def forget(self) -> None:
        """Forgets the units that are done."""
        self.left = [unit for unit in self.left if not self.is_done(unit)]

    def of(self, owners: Collection[int]) -> list[Unit]:
        """Returns the units of some ranks that are left."""
        return [unit for unit in self.left if unit.owner in owners]

    def to_help(self, owners: Collection[int], working: Collection[int], loaded: object) -> Iterator[Unit]:
        """Yields units of ranks that do not work, in order, then those of others, from the end of who has most left.

        working: other ranks that make their own. loaded: the model that is loaded, as chunks name it; its units come
        first, and no other is worth loading for the last unit of a rank that works.
        """
        left = self.of(owners)
        counts = Counter(unit.owner for unit in left)
        idle = [unit for unit in left if unit.owner not in working]
        busy = sorted((unit for unit in left[::-1] if unit.owner in working), key=lambda unit: -counts[unit.owner])
        for unit in sorted([*idle, *busy], key=lambda unit: unit.chunk.model != loaded):
            if unit.chunk.model == loaded or counts[unit.owner] > 1 or unit.owner not in working:
                yield unit


def _before(draft: Draft) -> _Identity | None:
    """Returns the file that is to be replaced by a picture; None where there is none."""
    return _identity(draft.target) if draft.replaces or draft.state in (State.BROKEN, State.DONE) else None


def _identity(path: Path) -> _Identity | None:
    """Returns what another file at a path would not have; None where there is none, or an empty one."""
    try:
        status = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, of thousands of files
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns) if status.st_size else None
