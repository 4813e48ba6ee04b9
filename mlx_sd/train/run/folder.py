"""The folder of a training run: held by one process, durable, and gone on with after any end.

settings.json        the settings that the run was begun with
checkpoints/         step-000100/ and the one before
log.jsonl            one line a step
loss.png             the plot of the log
samples/             pictures, step-000100-0.png
contact-sheet.png    the pictures by step and prompt
tensorboard/         the numbers of the log, where they are wanted there too
run.lock             the process that trains here
"""

import os
import warnings
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from ...core import interrupt
from ...core.errors import InputError
from . import checkpoint, durable, lock, log, plot, settings_file
from .checkpoint import Checkpoint
from .log import Log
from .samples import Samples
from .tensorboard import TensorBoard, writer_class

CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
_ADVICE = "free some space, and go on with --resume"


class RunFolder:
    """The folder of a run, a context manager: inside the block this process alone trains into it.

    Of several processes that train together, only the first has a RunFolder.

    path: the folder. step: the step after which the run goes on, 0 at its beginning. log, samples: what is written
    while it trains.
    """

    path: Path
    step: int
    log: Log
    samples: Samples

    def __init__(
        self,
        path: Path | str,
        settings: Any,
        *,
        resume: bool = False,
        display: Collection[str] = (),
        growing: Collection[str] = ("steps",),
        tensorboard: bool = False,
    ) -> None:
        """Describes a run; the folder is not touched before the block begins.

        settings: a record whose fields have a `Setting` each. resume: the folder holds a run that goes on; its
        settings must be the same, but for the fields in `display` and for numbers in `growing`, which may grow.
        tensorboard: the log is written for TensorBoard too; InputError where tensorboardX is missing.
        """
        self.path, self.step = Path(path), 0
        self._settings, self._resume, self._tensorboard = settings, resume, tensorboard
        self._display, self._growing = display, growing
        self._stack = ExitStack()
        self._newest: int | None = None  # the newest step with a whole checkpoint
        self._warned = False  # that there is no plot
        if tensorboard:
            writer_class()  # missing: said before anything is written

    def __enter__(self) -> "RunFolder":
        """Takes the lock, settles what a killed process has left, and finds the step to go on from.

        InputError where another process trains here, where `resume` does not fit what is there, where a setting
        differs, and where all checkpoints are damaged; then the files of the run are as they were.
        """
        with ExitStack() as stack:
            try:
                self._check()
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock.locked(self.path))
                self._check()  # another process may have begun a run meanwhile
                self._open(stack)
            except OSError as error:
                raise InputError(f"{error.filename or self.path} cannot be written: {error.strerror}") from None
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the log and drops the lock."""
        self._stack.close()

    def latest(self) -> Checkpoint | None:
        """Reads the newest whole checkpoint, bit for bit as it was saved; None before the first."""
        return None if self._newest is None else checkpoint.read(self._checkpoints / checkpoint.name(self._newest))

    def save(self, step: int, arrays: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> Path:
        """Saves the state of the training after a step, and returns the folder of the checkpoint.

        arrays: trees of MLX arrays by part, nested or flat: {"weights": ..., "optimizer": optimizer.state, ...}. They
        are read again flat, by names with dots. record: JSON that is no array, such as the epoch. The newest two
        checkpoints stay. Ctrl-C waits until it is done. Failure where the disk is full: the last one stays then, and
        nothing of this one.
        """
        path = self._checkpoints / checkpoint.name(step)
        stays = f"{checkpoint.name(self._newest)} stays" if self._newest is not None else "there is no checkpoint yet"
        self.log.flush()  # a checkpoint must not be newer than the log
        with interrupt.deferred(), durable.one_line(path, f"{stays}; {_ADVICE}"):
            checkpoint.write(self._checkpoints, step, arrays, record or {})
            self._newest = step
        return path

    def plot(self) -> Path | None:
        """Draws the plot of the log and returns its path; without matplotlib it warns once and returns None."""
        path = self.path / plot.NAME
        try:
            with durable.one_line(path, _ADVICE):
                plot.draw(path, log.read(self.log.path))
        except InputError as error:
            if not self._warned:
                warnings.warn(f"{path} is not drawn: {error}", stacklevel=2)
            self._warned = True
            return None
        return path

    @property
    def _checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def _check(self) -> None:
        """Raises InputError where the folder does not fit `resume`."""
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise InputError(f"{self.path} is not a folder; choose another name")
        begun = (self.path / settings_file.NAME).exists()
        if self._resume and not begun:
            raise InputError(f"{self.path} holds no run to go on with; leave out --resume to begin one")
        if begun and not self._resume:
            raise InputError(f"{self.path} holds a run; go on with --resume, or choose another folder")
        names = [path.name for path in self.path.iterdir()] if not begun and self.path.is_dir() else []
        if strange := sorted(name for name in names if name != lock.NAME and not durable.is_temporary(name)):
            raise InputError(f"{self.path} holds {strange[0]!r} and no run; choose an empty folder or a new one")

    def _open(self, stack: ExitStack) -> None:
        """Opens what is in the folder: a run is there from its settings on, and they change when all else is fine."""
        durable.sweep(self.path)
        if self._resume:
            settings_file.check(self.path, self._settings, display=self._display, growing=self._growing)
        else:
            settings_file.write(self.path, self._settings)
        self._checkpoints.mkdir(exist_ok=True)
        checkpoint.tidy(self._checkpoints)
        self._newest = checkpoint.newest(self._checkpoints)
        self.step = self._newest or 0
        board = TensorBoard(self.path / TENSORBOARD, self.step) if self._tensorboard else None
        if board:
            stack.callback(board.close)
        self.log = Log(self.path / log.NAME, self.step, board)
        stack.callback(self.log.close)
        self.samples = Samples(self.path, self.step)
        if self._resume:
            settings_file.write(self.path, self._settings)
