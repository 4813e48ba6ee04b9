"""Ctrl-C: one line whenever it comes, and never in the middle of something that belongs together.

This is the first of our modules in every process, and imports little: until it has run, Ctrl-C is Python's own.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
_PACKAGES, _SCRIPT = ("mlx_sd", "convert", "coreml", "bench"), "mlx-sd"


def quiet_start() -> None:
    """Makes Ctrl-C end this process with one line while one of our commands is imported; libraries change nothing.

    `mlx_sd.core.command.run` has its own way from there on. Nothing is done in processes that ignore Ctrl-C, or that
    handle it themselves.
    """
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _handle(_end)


@contextmanager
def raising() -> Iterator[None]:
    """Makes the first Ctrl-C raise KeyboardInterrupt in a block, and ignores those that follow."""

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        """Raises once, so that what is being tidied up then comes to its end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.default_int_handler, _end) or not _handle(interrupted):
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def deferred() -> Iterator[None]:
    """Lets a block come to its end before Ctrl-C counts."""
    before = signal.getsignal(signal.SIGINT)
    pending: list[FrameType | None] = []
    if not callable(before) or not _handle(lambda _, frame: pending.append(frame)):
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pending:
            before(signal.SIGINT, pending[0])


def _is_command() -> bool:
    """Returns whether this process runs one of our commands: python -m mlx_sd.generate, mlx-sd, ..."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-m":
            return next(words, "").partition(".")[0] in _PACKAGES
        if word in ("-X", "-W"):
            next(words, "")
        elif not word.startswith("-"):
            return word.rpartition("/")[2] == _SCRIPT
    return False


def _handle(handler: Callable[[int, FrameType | None], None]) -> bool:
    """Makes a function handle Ctrl-C; False outside the main thread, where none can be set."""
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:
        return False
    return True


def _end(_number: int, _frame: FrameType | None) -> None:
    """Ends the process: nothing was begun, so nothing has to be tidied up."""
    os.write(2, b"\ninterrupted\n")
    os._exit(EXIT_CODE)
