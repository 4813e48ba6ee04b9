"""Pictures of one list by several ranks, as mlx.launch starts them: the start, each rank's work, and the end."""

import argparse
import time
from collections.abc import Callable, Sequence

from .. import jobs, seeds
from ..core.errors import Failure, InputError, Interrupted
from ..jobs import Claim, ClaimLost, State
from ..ranks.exchange import RankFailed, RankLost, Ranks
from . import making, rank_start
from .making import Networks, Order, Run
from .plan import Draft, Plan
from .progress import Progress
from .rank_claims import Claims
from .rank_folder import RunFolder
from .rank_report import RankReport
from .rank_start import Decision
from .rank_units import Chunk, Unit, Units

_PAUSE = 0.1  # seconds between two looks at what other ranks make


def make_share(arguments: argparse.Namespace, name: str, ranks: Ranks) -> None:
    """Makes this rank's share of a command line's pictures, and those that the others do not get to."""
    if arguments.explain_prompt:
        making.explain_prompts(arguments)
        return
    rank_start.check_input(arguments)
    order = making.read(arguments, name, together=True)
    rank_start.check_command(order, ranks)
    plan = Plan(arguments, order.templates, rank_start.shared_draw(ranks, seeds.draw))
    making.warn(arguments, plan, order.templates)
    progress = Progress(len(plan.drafts), quiet=True)
    report = RankReport(arguments, name, plan, progress, ranks)
    rank_start.check_devices(ranks, arguments.same_device_only, report.note)
    folder = RunFolder(plan.folder, ranks)
    try:
        _Part(order, plan, report, progress, ranks, folder).run()
    finally:
        folder.close()


class _Run(Run):
    """The pictures that this rank makes."""

    def make_way(self, draft: Draft, claim: Claim) -> None:
        """Renames a damaged picture; ClaimLost where another rank has taken over while this one was silent."""
        if not claim.holds():
            raise ClaimLost
        super().make_way(draft, claim)


class _Part:
    """One rank's part of a run: the start with the others, its pictures, and the end."""

    def __init__(
        self, order: Order, plan: Plan, report: RankReport, progress: Progress, ranks: Ranks, folder: RunFolder
    ):
        self._order, self._arguments, self._plan = order, order.arguments, plan
        self._report, self._ranks, self._folder = report, ranks, folder
        self._group, self._together = folder.group_of(ranks.rank), len(folder.groups) == 1
        self._run = _Run(order, plan, report, progress)
        self._decision = Decision(plan, self._run, ranks, order.arguments, self._together)
        self._keeps_going = order.arguments.keep_going and ranks.beats.active
        self._failure: Failure | None = None  # why this rank makes no more pictures
        self._units: Units
        self._claims: Claims
        self._start = 0.0

    def run(self) -> None:
        """Does all of it. Without --keep-going, raises RankLost where a rank is silent, and RankFailed."""
        try:
            self._begin()
            self._work()
            self._end()
        except KeyboardInterrupt:
            self._run.release()
            self._list()
            raise Interrupted(self._report.way_on()) from None
        except RankFailed:  # which says how many pictures are there
            self._list()
            raise
        except RankLost as error:
            self._list()
            raise RankLost(f"{error}{self._report.so_far()}") from None
        except Failure as error:
            self._list()
            raise Failure(f"{error}{self._report.so_far()}") from None
        finally:
            self._run.close()
            if self._leader() == self._ranks.rank:
                self._folder.remove()

    def _begin(self) -> None:
        """Decides with the others who makes what; no rank writes before all are here."""
        drafts, rank = self._plan.drafts, self._ranks.rank
        self._decision.share()
        if rank in self._decision.failures:
            self._fail(self._decision.failures[rank])
        if not self._together:
            self._decision.inspect()
            if self._order.lists is not None and rank == self._group.leader:
                self._order.lists.check(drafts)
        rank_start.note_folders(self._folder.groups, self._plan.folder, self._report.note)
        self._units = Units(drafts, self._decision.chunks, self._ranks.size)
        self._claims = Claims(self._units, self._folder, self._ranks, self._run.make_folder)
        self._report.planned(drafts)
        if units := self._units.of([rank]):
            self._load(units[0].chunk)
        self._ranks.agree()
        self._start = time.monotonic()
        self._report.work_begins(self._folder, self._units, together=self._together)
        if self._units.left:
            self._report.begins()
        if rank == self._group.leader:
            jobs.sweep_temporary(draft.target for draft in drafts)
            self._claims.sweep([draft for draft in drafts if draft.state is State.DONE])

    def _work(self) -> None:
        """Makes the pictures of this rank, then those that others have not begun, until all are there."""
        rank = self._ranks.rank
        for chunk in self._units.chunks:
            if any(unit.owner == rank and unit.drafts for unit in chunk.units):
                self._make(chunk, lambda unit: unit.owner == rank)
        while True:
            self._watch()
            self._units.forget()
            owners, orphans = self._owners()
            left = self._units.of(owners)
            if not left and self._others_ended(orphans):
                return
            if left and self._help(owners):
                continue
            if self._failure is not None and not self._working():
                raise self._failure
            self._leave_foreign(left)
            time.sleep(_PAUSE)

    def _help(self, owners: set[int]) -> bool:
        """Makes pictures that nobody makes yet, of this rank or of others; returns whether there were any."""
        if self._failure is not None:
            return False
        loaded = None if self._decision.networks is None else self._decision.networks[0]
        working = [rank for rank in self._working() if rank != self._ranks.rank]
        try:
            for unit in self._units.to_help(owners, working, loaded):
                if claims := self._claims.take(unit):
                    self._make(unit.chunk, lambda other: other.owner in owners, unit, claims)
                    return True
        except Failure as error:
            self._fail_or_raise(error)
        return False

    def _make(
        self,
        chunk: Chunk,
        may: Callable[[Unit], bool],
        first: Unit | None = None,
        claims: Sequence[tuple[Draft, Claim]] = (),
    ) -> None:
        """Makes those pictures of a chunk that this rank may make and nobody else has claimed.

        first: a unit that is claimed already, before which none is made.
        """
        claimed: dict[Unit, list[tuple[Draft, Claim]]] = {} if first is None else {first: list(claims)}
        begun = first is None

        def accept(i: int) -> bool:
            """Returns whether a picture is made now; its whole unit is claimed before."""
            nonlocal begun
            unit = chunk.unit_of[i]
            begun = begun or unit is first
            if not begun or self._failure is not None or not may(unit):
                return False
            if unit not in claimed:
                claimed[unit] = self._claims.take(unit)
            if not claimed[unit] or claimed[unit][0][0] is not chunk.drafts[i]:
                return False
            self._run.claims.append(claimed[unit].pop(0))
            return True

        try:
            if (networks := self._load(chunk)) is not None:
                self._run.stream(networks, chunk.drafts, accept, self._watch)
        except ClaimLost:
            self._report.tell(f"rank {self._ranks.rank} was silent for long; another has made its picture")
        except Failure as error:
            self._fail_or_raise(error)
        finally:
            self._run.release()
            for unit_claims in claimed.values():
                for _, claim in unit_claims:
                    claim.release()

    def _load(self, chunk: Chunk) -> Networks | None:
        """Returns the model of a chunk; None where it cannot be loaded, and others may go on without this rank."""
        if self._failure is not None:
            return None
        try:
            return self._decision.load(chunk.drafts)
        except (InputError, Failure) as error:
            needed = bool(self._units.of([self._ranks.rank])) and not self._keeps_going
            if needed or isinstance(error, (RankLost, RankFailed)):
                raise
            self._fail(str(error))
            return None

    def _fail_or_raise(self, error: Failure) -> None:
        """Leaves the pictures of this rank to the others after an error of its own, with --keep-going."""
        if isinstance(error, (RankLost, RankFailed)) or not self._keeps_going:
            raise error
        self._fail(str(error))

    def _fail(self, reason: str) -> None:
        """Leaves the pictures of this rank to the others."""
        self._failure = Failure(reason)
        self._ranks.beats.tell(failure=f"makes no more pictures: {reason}")

    def _watch(self) -> None:
        """Looks after the other ranks: RankLost where one is silent, RankFailed where one has failed."""
        self._report.show()
        beats = self._ranks.beats
        if self._keeps_going or not (silent := beats.silent()):
            return
        if any(beats.state(rank) == "failed" for rank in silent):
            self._ranks.agree()  # where it says why
        raise RankLost(beats.faults())

    def _leave_foreign(self, units: Sequence[Unit]) -> None:
        """Leaves the pictures that another run makes to it, where nothing else is left to do."""
        for unit in self._claims.foreign(units):
            if not self._plan.resumes(unit.drafts[0]):
                raise Failure(f"another process is writing {unit.drafts[0].target}; choose another name")
            self._units.left.remove(unit)
            for _ in unit.drafts:
                self._report.elsewhere()

    def _working(self) -> list[int]:
        """Returns the ranks that are not silent, and make pictures."""
        return [rank for rank in self._living() if not self._ranks.beats.facts(rank).get("failure")]

    def _living(self) -> list[int]:
        silent = self._ranks.beats.silent()
        return [rank for rank in range(self._ranks.size) if rank not in silent]

    def _helpers(self, rank: int) -> tuple[int, ...]:
        """Returns the ranks that may make the pictures of one."""
        group = self._folder.group_of(rank)
        return group.ranks if group.locks else (rank,)

    def _owners(self) -> tuple[set[int], set[int]]:
        """Returns the ranks whose pictures this one makes, and those whose pictures only ranks of other folders can.

        The latter are made by the first rank that works, and those with which it shares a folder.
        """
        owners, working = {*self._helpers(self._ranks.rank)}, self._working()
        orphans = {rank for rank in range(self._ranks.size) if not {*self._helpers(rank)} & {*working}}
        return (owners | orphans if working and working[0] in owners else owners), orphans

    def _others_ended(self, orphans: set[int]) -> bool:
        """Returns whether this rank may end: those who write elsewhere are waited for, since they may fail."""
        beats, everyone = self._ranks.beats, range(self._ranks.size)
        if {*self._helpers(self._ranks.rank)} == {*everyone} or not beats.active:
            return True
        beats.tell(ended=1 + len(orphans))
        waited = [rank for rank in self._living() if rank not in orphans and beats.state(rank) == "working"]
        return all(beats.facts(rank).get("ended") == 1 + len(orphans) for rank in waited)

    def _leader(self) -> int:
        """Returns the first rank of this one's folder that lives."""
        return min({*self._living()} & {*self._group.ranks}, default=self._ranks.rank)

    def _end(self) -> None:
        """Writes the index of this folder, and prints what all ranks have made."""
        seconds, beats = time.monotonic() - self._start, self._ranks.beats
        while self._keeps_going and (leader := self._leader()) != self._ranks.rank:
            if beats.state(leader) != "working" or beats.facts(leader).get("reported"):
                return
            time.sleep(_PAUSE)
        if not self._folder.present:  # another rank has reported, while this one was silent
            return
        if self._leader() == self._ranks.rank:
            self._claims.wait(self._plan.drafts)
            self._claims.sweep(self._plan.drafts)
            self._report.records = self._folder.records()
            self._run.summarize()
        if not self._together and not beats.silent():
            self._report.exchange([group.leader for group in self._folder.groups])
        if self._report.speaks():
            self._report.finish(seconds)
        beats.tell(reported=1)

    def _list(self) -> None:
        """Prints what was made, where the run ends early, if this is the rank that prints."""
        if self._report.speaks():
            self._folder.wait()
            self._report.records = self._folder.records()
            self._report.list_pictures()
