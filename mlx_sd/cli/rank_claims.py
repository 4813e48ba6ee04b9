"""The claims of one rank on batches: all pictures of a batch or none, and those of silent ranks are taken over."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import jobs
from ..jobs import Claim
from ..ranks.exchange import Ranks
from .plan import Draft
from .rank_folder import RunFolder
from .rank_units import Unit, Units

_FOREIGN = 2.0  # seconds after which pictures that another run has claimed are its own
_PAUSE = 0.05  # seconds between two looks at claims


class Claims:
    """Claims batches for this rank; make_folder: makes the folder of a target."""

    def __init__(self, units: Units, folder: RunFolder, ranks: Ranks, make_folder: Callable[[Path], None]):
        self._units, self._folder, self._ranks, self._make_folder = units, folder, ranks, make_folder
        self._foreign: dict[Unit, float] = {}  # since when another run has a claim

    def take(self, unit: Unit) -> list[tuple[Draft, Claim]]:
        """Claims the pictures of a unit that are not there yet; none where another process has one of them.

        The claim on the first picture decides, so that two ranks never make parts of one unit.
        """
        claims: list[tuple[Draft, Claim]] = []
        for draft in unit.drafts:
            self._make_folder(draft.target.parent)
            if (claim := self._claim(unit, draft)) is None:
                _release(claims)
                return []
            claims.append((draft, claim))
        self._foreign.pop(unit, None)
        _release([pair for pair in claims if self._units.is_made(pair[0])])
        return [pair for pair in claims if not self._units.is_made(pair[0])]

    def foreign(self, units: Sequence[Unit]) -> list[Unit]:
        """Returns those of some units that another run has had for long."""
        now = time.monotonic()
        return [unit for unit in units if now - self._foreign.get(unit, now) > _FOREIGN]

    def wait(self, drafts: Sequence[Draft]) -> None:
        """Waits until the ranks that live have reported these pictures: they give their claims free after that."""
        while any(self._is_in_work(draft) for draft in drafts):
            time.sleep(_PAUSE)

    def _is_in_work(self, draft: Draft) -> bool:
        """Returns whether a rank that lives, and is not this one, holds the claim on a picture."""
        rank = self._folder.rank_of(jobs.owner_of(draft.target))
        others = rank is not None and rank != self._ranks.rank and rank not in self._ranks.beats.silent()
        return others and jobs.is_claimed(draft.target)

    def sweep(self, drafts: Sequence[Draft]) -> None:
        """Removes the claims on pictures that ranks have left there which are dead, or silent."""
        for draft in drafts:
            jobs.sweep(draft.target)
            if (left := self._of_silent(draft)) is not None:
                left.release()

    def _claim(self, unit: Unit, draft: Draft) -> Claim | None:
        """Claims one picture; that of a rank that is silent is taken over."""
        owner = self._folder.owner(self._ranks.rank)
        if (claim := jobs.claim(draft.target, owner)) is not None:
            return claim
        if self._folder.rank_of(jobs.owner_of(draft.target)) is None:
            self._foreign.setdefault(unit, time.monotonic())
            return None
        self._foreign.pop(unit, None)
        return self._of_silent(draft)

    def _of_silent(self, draft: Draft) -> Claim | None:
        """Takes over the claim of a rank that is silent; None where there is none."""
        holder = jobs.owner_of(draft.target)
        if self._folder.rank_of(holder) not in self._ranks.beats.silent():
            return None
        return jobs.take_over(draft.target, holder or "", self._folder.owner(self._ranks.rank))


def _release(claims: Sequence[tuple[Draft, Claim]]) -> None:
    for _, claim in claims:
        claim.release()
