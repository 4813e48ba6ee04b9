"""What the command shows while it trains: the plan, the speed of the first steps, and a line that is written over."""

import sys
import time

from ..core import terminal
from .memory.plan import MemoryPlan
from .session import Progress

FIRST_STEPS = 5  # after which the speed is told; the first of them is slower and does not count
_DAY = 86400.0  # seconds


class ProgressLine:
    """One line on the terminal that is written over at every step, and lines that stay.

    The launcher of several ranks hides the terminal, so there is a line of its own with each validation.
    """

    def __init__(self, together: bool = False, quiet: bool = False) -> None:
        """together: of several ranks. quiet: shows nothing."""
        self._together, self._quiet = together and not quiet, quiet
        self._start, self._first, self._shown = time.monotonic(), 0, False
        self._validation: float | None = None
        self._seconds: list[float] = []

    def plan(self, plan: MemoryPlan) -> None:
        """Shows the memory that a step needs."""
        self._stay(*plan.lines())

    def show(self, progress: Progress) -> None:
        """Shows the numbers of a step."""
        if progress.validation is not None:
            self._validation = progress.validation
        self._measure(progress)
        if not terminal.visible() and not (self._together and progress.validation is not None):
            return
        self._first = self._first or progress.step
        rate = (time.monotonic() - self._start) / (progress.step - self._first + 1)
        left = rate * (progress.steps - progress.step)
        validation = "" if self._validation is None else f", at fixed noise {self._validation:.4f}"
        losses = f"loss {progress.numbers.loss:.4f}{validation}"
        text = f"step {progress.step}/{progress.steps}  {losses}  {left / 60:.0f} min left"
        if not terminal.visible():
            print(text, file=sys.stderr, flush=True)
            return
        print(f"\r{text:<79}", end="", file=sys.stderr, flush=True)
        self._shown = True

    def end(self) -> None:
        """Ends the line, behind which others begin."""
        if self._shown:
            print(file=sys.stderr)
        self._shown = False

    def _measure(self, progress: Progress) -> None:
        """Tells the speed once, when the first steps are taken."""
        if len(self._seconds) == FIRST_STEPS:
            return
        self._seconds.append(progress.seconds)
        if len(self._seconds) == FIRST_STEPS and progress.step < progress.steps:
            self._stay(speed_line(self._seconds[1:], progress.steps - progress.step, time.time()))

    def _stay(self, *lines: str) -> None:
        """Prints lines that are not written over."""
        self.end()
        if not self._quiet:
            print("\n".join(lines), file=sys.stderr, flush=True)


def speed_line(seconds: list[float], left: int, now: float) -> str:
    """Returns the steps an hour and the expected end in words.

    seconds: of steps that were measured, not all 0. left: steps that are still to be taken. now: since 1970.
    """
    mean = sum(seconds) / len(seconds)
    end = now + left * mean
    clock = time.strftime("%H:%M" if end - now < _DAY else "%Y-%m-%d %H:%M", time.localtime(end))
    return f"{3600 / mean:,.0f} steps an hour; the last of them is expected at {clock}"
