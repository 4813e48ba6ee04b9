"""The folder of a run as the ranks beside the first have it: they train with the first, and write nothing."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .checkpoint import Checkpoint
from .folder import RunFolder
from .log import Log


class UnwrittenLog(Log):
    """A log without a file."""

    def __init__(self) -> None:
        self.step = -1

    def write(
        self,
        step: int,
        *,
        loss: float | None = None,
        lr: float | None = None,
        grad_norm: float | None = None,
        seconds: float | None = None,
        validation: float | None = None,
        others: Mapping[str, float] | None = None,
    ) -> None:
        """Keeps the number of the step."""
        self.step = step


class UnwrittenFolder(RunFolder):
    """A folder that is neither read nor written."""

    def __enter__(self) -> "UnwrittenFolder":
        """Begins a log without a file."""
        self.log = UnwrittenLog()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Has nothing to close."""

    def latest(self) -> Checkpoint | None:
        """Returns None: the state comes from the first rank."""
        return None

    def save(self, step: int, arrays: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> Path:
        """Returns the path of the folder, in which the first rank saves."""
        return self.path

    def plot(self) -> Path | None:
        """Returns None: the first rank draws."""
        return None
