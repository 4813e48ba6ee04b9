"""What the command lines of the measurements share: their parsers, and measurements without settings."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from mlx_sd.core import command
from mlx_sd.core.parser import Parser, program

from . import results
from .machine import describe


class _Defaults(argparse.RawDescriptionHelpFormatter):
    """Help that names every default which its text does not name."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        named = "default" in text or default is None or default is False or default in ([], argparse.SUPPRESS)
        return text if named else f"{text} (default %(default)s)"


def parser(name: str, description: str | None, examples: str | None = None) -> Parser:
    """Builds the parser of `python -m bench NAME`; the help shows both texts with their own line breaks."""
    return Parser(
        prog=f"{program('bench')} {name}",
        description=description,
        epilog=examples,
        formatter_class=_Defaults,
    )


def results_file(value: str) -> Path:
    """Returns the path of a file to be written, for argparse, which refuses one without a folder before measuring."""
    path = Path(value)
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a folder" if path.is_dir() else f"the folder {path.parent} does not exist"
        raise argparse.ArgumentTypeError(f"{value!r} cannot be written: {reason}")
    return path


def add_json(arguments: Parser) -> None:
    """Adds --json FILE, where results are written to."""
    arguments.add_argument("--json", type=results_file, metavar="FILE", help="write the results here")


def run_measurement(
    name: str, description: str | None, measure: Callable[[], results.Results], argv: Sequence[str] | None
) -> int:
    """Runs a measurement whose only option is --json, prints its results with the machine, returns the exit code."""
    p = parser(name, description)
    add_json(p)
    output = p.parse_args(argv).json
    return command.run(f"bench {name}", lambda: results.report(measure() | {"machine": describe()}, output))
