"""What all command lines share: one clear line for what goes wrong, and its exit code."""

import io
import sys
import warnings
from collections.abc import Callable
from typing import Any

from . import interrupt, terminal
from .errors import Failure, InputError


def run(name: str, command: Callable[[], None], quiet: bool = False) -> int:
    """Runs a command and returns its exit code: 0, 1 for a failure, 2 for bad input, 130 for Ctrl-C.

    quiet: warnings and bars are not shown.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8: they are printed as they are
        sys.stdout.reconfigure(errors="surrogateescape")
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


def _exit_code(name: str, command: Callable[[], None]) -> int:
    try:
        command()
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
    return 0
