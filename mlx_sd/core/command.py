"""What all command lines share: one clear line for what goes wrong, and its exit code."""

import codecs
import errno
import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import interrupt, terminal
from .errors import Failure, InputError

_SHOWN = 40  # characters of a name that is too long
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def run(name: str, command: Callable[[], None], quiet: bool = False) -> int:
    """Runs a command and returns its exit code: 0, 1 for a failure, 2 for bad input, 130 for Ctrl-C.

    quiet: warnings and bars are not shown.
    """
    open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8: they are printed as they are
        sys.stdout.reconfigure(errors="surrogateescape" if prints_unicode() else "backslashreplace")
    printed: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        """Prints a warning, once in a run wherever in the code it comes from."""
        if str(message) not in printed:
            printed.add(str(message))
            print(f"{name}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "default", UserWarning)
        warnings.showwarning = show
        with interrupt.raising(), terminal.hidden(quiet):
            return _exit_code(name, command)


def prints_unicode() -> bool:
    """Returns whether the standard output takes every character, which it does not in the locale C of old systems."""
    return codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"


def open_streams() -> None:
    """Opens the null device in the place of each standard stream that is closed, as by <&- in a shell.

    Otherwise the next file that is opened would be taken for it, and errors would go to the standard output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is the closed stream's
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - for the whole process


def _exit_code(name: str, command: Callable[[], None]) -> int:
    try:
        _check_folder()
        command()
        sys.stdout.flush()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except Failure as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"\n{name}: interrupted{f'; {error}' if str(error) else ''}", file=sys.stderr)
        return interrupt.EXIT_CODE
    except BrokenPipeError:  # whoever read our output has gone
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            beginning = os.fsdecode(error.filename)[:_SHOWN]
            print(f"{name}: {beginning}... is too long for the name of a file; give a shorter one", file=sys.stderr)
            return 2
        if error.filename is not None or error.errno not in _OUTPUT_ERRORS:  # not of the standard output
            raise
        print(f"{name}: the output cannot be written: {error.strerror}", file=sys.stderr)
        _drop_output()
        return 1
    return 0


def _check_folder() -> None:
    """Raises InputError where the folder that a shell is in was removed, in which no path means anything."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(f"the current folder is gone ({error.strerror}); change to another one, with cd") from None


def _drop_output() -> None:
    """Sends what is still to be printed nowhere, so that Python does not try it again at its end."""
    if sys.__stdout__ is not None and sys.stdout is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
