"""What a run says: paths on the standard output or JSON, and notes on the standard error."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.command import prints_unicode
from ..jobs import State
from ..result import Result
from .plan import Draft, Plan
from .progress import Progress


class Report:
    """Collects what a run makes, and prints it."""

    def __init__(self, arguments: argparse.Namespace, name: str, plan: Plan, progress: Progress):
        self._arguments, self._name, self._plan, self._progress = arguments, name, plan, progress
        self._pictures: list[dict[str, Any]] = []
        self._made, self._present, self._elsewhere = 0, 0, 0
        self._load_seconds = 0.0
        self._begun = False

    def note(self, text: str) -> None:
        """Prints a line on the standard error, unless it is quiet."""
        if not self._arguments.quiet:
            self._progress.print(f"{self._name}: {text}", sys.stderr)

    def loaded(self, seconds: float) -> None:
        """Notes the seconds that a model took to load."""
        self._load_seconds = seconds
        if self._arguments.verbose:
            self.note(f"loaded in {seconds:.2f} s")

    def planned(self, drafts: Sequence[Draft]) -> None:
        """Says how many pictures are there already."""
        present = [draft for draft in drafts if draft.state is State.DONE]
        self._present += len(present)
        self._progress.skip(len(present))
        self._pictures += (
            [{"output": str(draft.target), "made": False, **draft.job.request.to_json()} for draft in present]
            if self._arguments.json
            else []
        )
        if present:
            if len(present) < len(drafts):
                pictures = f"{len(present)} of {_pictures(len(drafts), len(present))} there already"
            else:
                pictures = f"{'the picture is' if len(drafts) == 1 else f'all {_pictures(len(drafts))}'} there already"
            self.note(f"{pictures}; --overwrite makes {'it' if len(present) == 1 else 'them'} again")

    def begins(self) -> None:
        """Prints the seed that was drawn, once: now nothing is wrong with the request any more."""
        if self._begun:
            return
        self._begun = True
        if self._plan.drawn_seed is not None and not self._arguments.json:
            self.note(f"seed {self._plan.drawn_seed}")

    def elsewhere(self) -> None:
        """Counts a picture that another process makes."""
        self._elsewhere += 1
        self._progress.skip(1)

    def add(
        self, draft: Draft, settings: dict[str, Any], moving: Path | None, result: Result, save_seconds: float
    ) -> None:
        """Prints the path of a picture, or keeps its settings and seconds for the JSON."""
        self._made += 1
        self._progress.finish()
        record = self.record(draft, settings, moving, result, save_seconds)
        if self._arguments.json:
            self._pictures.append(record)
        elif not self._arguments.quiet:
            self._progress.print(str(draft.target))
        self.note_times(draft, record)

    def record(
        self, draft: Draft, settings: dict[str, Any], moving: Path | None, result: Result, save_seconds: float
    ) -> dict[str, Any]:
        """Returns what --json prints of a picture."""
        animation = {} if moving is None else {"animation": str(moving)}
        times = _times(result, self._load_seconds, save_seconds)
        return {"output": str(draft.target), **animation, "made": True, **settings, **times}

    def note_times(self, draft: Draft, record: dict[str, Any]) -> None:
        """Prints the seconds that a picture took, if that is asked for."""
        if self._arguments.verbose:
            seconds = ", ".join(f"{phase} {record[f'{phase}_seconds']:.2f} s" for phase in _PHASES)
            self.note(f"{draft.target}: {record['seconds']:.2f} s ({seconds})")

    def sheet(self, path: Path) -> None:
        """Prints the path of a file about the pictures, as the sheet of --grid; beside JSON on the standard error."""
        if self._arguments.json:
            self.note(self.words_of_sheet(path))
        elif not self._arguments.quiet:
            self._progress.print(str(path))

    def words_of_sheet(self, path: Path) -> str:
        """Returns the line that names a file about the pictures."""
        return f"the {'sheet' if path.suffix == '.png' else 'index'} is {path}"

    def so_far(self) -> str:
        """Returns the end of a message about a failure: what was made before it, and how to go on."""
        return "" if len(self._plan.drafts) == 1 else f"; {self._count()}{self._command()}"

    def way_on(self) -> str:
        """Returns the end of the message about an interruption."""
        if len(self._plan.drafts) == 1 or not self._begun:
            return ""
        return f"{self._count()}{self._command()}"

    def close(self) -> None:
        """Says what another process makes, and prints the JSON."""
        if self._elsewhere:
            pictures = _pictures(len(self._plan.drafts), self._elsewhere)
            self.note(f"{self._elsewhere} of {pictures} being made by another process")
        if self._arguments.json and (self._begun or self._pictures):
            print(json.dumps(self._pictures, indent=2, ensure_ascii=not prints_unicode()))

    def _count(self) -> str:
        number = self._made + self._present
        return f"{number} of {_pictures(len(self._plan.drafts), number)} there"

    def _command(self) -> str:
        """Returns how the same command goes on where this one ended."""
        if not self._arguments.metadata or self._arguments.overwrite:
            return ""
        additions = []
        if not self._plan.resumes(self._plan.drafts[0]):
            additions.append("--output ./")
        if self._plan.drawn_seed is not None:
            additions.append(f"--seed {self._plan.drawn_seed}")
        words = f" with {' '.join(additions)}" if additions else ""
        return f"; the same command{words} makes only what is missing"


def _pictures(total: int, number: int | None = None) -> str:
    """Returns "3 pictures are" or "1 picture is"; number: of those that are spoken of, where that is another one."""
    verb = "is" if (total if number is None else number) == 1 else "are"
    return f"{total} {'picture' if total == 1 else 'pictures'} {verb}"


_PHASES = ("encode", "denoise", "decode", "save")


def _times(result: Result, load: float, save: float) -> dict[str, Any]:
    """Returns evaluations and seconds of one picture: of its batch, an equal share."""
    (phases,), pictures = result.phases, len(result.images)
    seconds = {phase: value / pictures for phase, value in phases._asdict().items()} | {"save": save}
    return {
        "evaluations": result.evaluations,
        "full_evaluations": result.full,
        "batch": pictures,
        "seconds": round(sum(seconds.values()), 4),
        "load_seconds": round(load, 4),
        **{f"{phase}_seconds": round(value, 4) for phase, value in seconds.items()},
        "step_seconds_median": round(float(np.median(result.seconds)), 4),
    }
