"""Ctrl-C: one line whenever it comes, and never in the middle of something that belongs together."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

EXIT_CODE = 130
_PACKAGES, _SCRIPT = ("mlx_sd", "convert", "coreml", "bench"), "mlx-sd"


def quiet_start() -> None:
    """Makes Ctrl-C end this process with one line while one of our commands is imported; libraries change nothing.

    `mlx_sd.core.command.run` has its own way from there on. Nothing is done in processes that ignore Ctrl-C, or that
    handle it themselves.
    """
    if _is_command() and _handles_itself():
        signal.signal(signal.SIGINT, _end)


@contextmanager
def raising() -> Iterator[None]:
    """Makes the first Ctrl-C raise KeyboardInterrupt in a block, and ignores those that follow."""

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        """Raises once, so that what is being tidied up then comes to its end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before not in (signal.default_int_handler, _end):
        yield
        return
    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def deferred() -> Iterator[None]:
    """Lets a block come to its end before Ctrl-C counts."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    pending: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: pending.append(frame))
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
            return Path(word).name == _SCRIPT
    return False


def _handles_itself() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _end(_number: int, _frame: FrameType | None) -> None:
    """Ends the process: nothing was begun, so nothing has to be tidied up."""
    os.write(2, b"\ninterrupted\n")
    os._exit(EXIT_CODE)
