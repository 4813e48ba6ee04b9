"""What a run of several ranks says: one line for all while it runs, and paths, JSON and rates at its end."""

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.command import prints_unicode
from ..core.errors import Failure
from ..core.files import atomic_file
from ..jobs import State
from ..ranks.exchange import Ranks
from ..result import Result
from .plan import Draft, Plan
from .progress import Progress
from .rank_folder import RunFolder
from .rank_units import Units
from .report import Report

_FIRST, _LONGEST = 10.0, 60.0  # seconds between two lines, at the beginning and later
_ROOM = 12_000  # bytes that can be printed where the launcher reads no more, since a rank has ended


class RankReport(Report):
    """Collects what this rank makes, and tells the others how much; one rank prints for all of them."""

    def __init__(self, arguments: argparse.Namespace, name: str, plan: Plan, progress: Progress, ranks: Ranks):
        super().__init__(arguments, name, plan, progress)
        self._ranks = ranks
        self._folder: RunFolder | None = None
        self._units: Units | None = None
        self._start, self._shown, self._failed = time.monotonic(), time.monotonic(), set[int]()
        self.records: dict[int, dict[str, Any]] = {}  # of the pictures of all ranks, once they are exchanged
        self._together = True  # whether the pictures of all ranks are in one folder
        self._sheets: list[Path] = []

    def work_begins(self, folder: RunFolder, units: Units, together: bool) -> None:
        """Notes that from now on pictures are made; together: those of all ranks in one folder."""
        self._folder, self._units, self._together = folder, units, together
        self._start = self._shown = time.monotonic()
        self._ranks.beats.tell(pictures=0)

    def add(
        self, draft: Draft, settings: dict[str, Any], moving: Path | None, result: Result, save_seconds: float
    ) -> None:
        """Adds a picture of this rank to its journal."""
        assert self._folder is not None
        self._made += 1
        record = self.record(draft, settings, moving, result, save_seconds) | {"rank": self._ranks.rank}
        self._folder.add(draft.picture.number, record)
        self._ranks.beats.tell(pictures=self._made)
        self.note_times(draft, record)

    def sheet(self, path: Path) -> None:
        """Keeps the path of a file about the pictures until those are printed."""
        self._sheets.append(path)

    def so_far(self) -> str:
        """Returns the end of a message about a failure, once it is known which pictures are there."""
        return "" if self._units is None else super().so_far()

    def exchange(self, leaders: Sequence[int]) -> None:
        """Exchanges the records of ranks that write into different folders; leaders: those that have read them."""
        for leader in leaders:
            records = self.records if leader == self._ranks.rank else {}
            text = self._ranks.share_text(json.dumps([*records.items()]), leader)
            self.records |= {int(number): record for number, record in json.loads(text)}

    def show(self) -> None:
        """Prints how far all ranks are, now and then, and which of them has failed."""
        if not self.speaks():
            return
        for rank in range(self._ranks.size):
            failure = self._ranks.beats.facts(rank).get("failure")
            if failure and rank not in self._failed:
                self._failed.add(rank)
                self.tell(f"{self._ranks.beats.name(rank)} {failure}; the others make its pictures")
        now = time.monotonic()
        if now - self._shown < min(max((now - self._start) / 10, _FIRST), _LONGEST):
            return
        self._shown = now
        pictures = [self._pictures_of(rank) for rank in range(self._ranks.size)]
        total, rate = len(self._plan.drafts), sum(pictures) / (now - self._start) * 60
        done = min(total, self._present + sum(pictures))
        left = f", {_duration((total - done) / rate * 60)} left" if rate else ""
        bar = "#" * (20 * done // total)
        self.tell(f"[{bar:-<20}] {done} of {total} pictures, {_rates(pictures, now - self._start)}{left}")

    def speaks(self) -> bool:
        """Returns whether this rank prints for all: the first that lives, or can say itself why it fails."""
        beats = self._ranks.beats
        silent = {rank for rank in beats.silent() if beats.state(rank) != "failed"}
        return self._ranks.rank == min({*range(self._ranks.size)} - silent, default=self._ranks.rank)

    def tell(self, text: str) -> None:
        """Prints a line for all ranks on the standard error, unless it is quiet; also on ranks whose own is hidden."""
        if not self._arguments.quiet:
            print(f"{self._name}: {text}", file=sys.__stderr__, flush=True)

    def finish(self, seconds: float) -> None:
        """Prints paths, or JSON, in the order of the prompts, and what each rank has done."""
        counts = Counter(record["rank"] for record in self.records.values())
        if self._ranks.size > 1 and counts:
            total = counts.total()
            pictures = "1 picture" if total == 1 else f"{total} pictures"
            each = _rates([counts[rank] for rank in range(self._ranks.size)], seconds)
            self.tell(f"{pictures} in {_duration(seconds)}, {each}")
        self.list_pictures()

    def list_pictures(self) -> None:
        """Prints the paths of the pictures that were made, or the JSON of all, in the order of the prompts."""
        if self._arguments.json:
            records = [record for draft in self._plan.drafts if (record := self._of(draft)) is not None]
            text = json.dumps(records, indent=2, ensure_ascii=not prints_unicode())
            self._print(text if records else "", ".json")
            for path in self._sheets:
                self.tell(self.words_of_sheet(path))
        elif not self._arguments.quiet:
            paths = [draft.target for draft in self._plan.drafts if self._is_made(draft)]
            self._print("\n".join(map(str, [*paths, *self._sheets])), ".txt")

    def close(self) -> None:
        """Says what another run makes."""
        if self._elsewhere and self.speaks():
            verb = "is" if self._elsewhere == 1 else "are"
            self.tell(f"{self._elsewhere} of {len(self._plan.drafts)} pictures {verb} being made by another process")

    def _count(self) -> str:
        number = self._there()
        return f"{number} of {len(self._plan.drafts)} pictures {'is' if number == 1 else 'are'} there"

    def _there(self) -> int:
        """Returns how many pictures of all ranks are there."""
        if self._units is None or not self._together:
            return self._present + sum(self._pictures_of(rank) for rank in range(self._ranks.size))
        return sum(draft.state is State.DONE or self._units.is_made(draft) for draft in self._plan.drafts)

    def _is_made(self, draft: Draft) -> bool:
        """Returns whether this run has made a picture, as far as this rank knows."""
        if draft.picture.number in self.records:
            return True
        return self._units is not None and draft.state is not State.DONE and self._units.is_made(draft)

    def _of(self, draft: Draft) -> dict[str, Any] | None:
        """Returns the record of a picture; None where it is not there. That of a lost journal has no times."""
        if (record := self.records.get(draft.picture.number)) is not None:
            return record
        if draft.state is State.DONE or self._is_made(draft):
            is_new = draft.state is not State.DONE
            return {"output": str(draft.target), "made": is_new, **draft.job.request.to_json()}
        return None

    def _pictures_of(self, rank: int) -> int:
        if rank == self._ranks.rank:
            return self._made
        return int(self._ranks.beats.facts(rank).get("pictures", 0))

    def _print(self, text: str, suffix: str) -> None:
        """Prints a text on the standard output, or writes it to a file where that has no reader any more."""
        if not text:
            return
        if self._ranks.beats.silent() and len(text.encode("utf-8", "replace")) > _ROOM:
            path = self._plan.folder / f"printed-{self._folder.run if self._folder else 0}{suffix}"
            try:
                with atomic_file(path) as file:
                    file.write(f"{text}\n".encode("utf-8", "surrogateescape"))
            except OSError as error:
                raise Failure(f"{path} cannot be written: {error.strerror}") from None
            self.tell(f"the launcher reads no more, since a rank has ended; what would be printed is in {path}")
            return
        stream = sys.__stdout__ if self._ranks.rank else sys.stdout
        with contextlib.suppress(AttributeError):
            print(text, file=stream, flush=True)


def _rates(pictures: Sequence[int], seconds: float) -> str:
    """Returns "9.1 a minute (rank 0 5.0, rank 1 4.1)": of all ranks, and of each."""
    rates = [count / max(seconds, 1e-3) * 60 for count in pictures]
    each = ", ".join(f"rank {rank} {rate:.1f}" for rank, rate in enumerate(rates))
    return f"{sum(rates):.1f} a minute ({each})"


def _duration(seconds: float) -> str:
    """Returns a time in words: "45 s", "12 min", "3.5 h"."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
