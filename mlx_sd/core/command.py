"""What all command lines share: one clear line for what goes wrong, and its exit code."""

import io
import sys
import warnings
from collections.abc import Callable

from .errors import Failure, InputError


def run(name: str, command: Callable[[], None]) -> int:
    """Runs a command and returns its exit code: 0, 1 for a failure, 2 for bad input, 130 for Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8: they are printed as they are
        sys.stdout.reconfigure(errors="surrogateescape")
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"{name}: {message}", file=sys.stderr)
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
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        sys.stderr.close()
        return 1
    return 0
