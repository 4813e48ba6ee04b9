"""Commands as people type them, parsed to requests; no picture is made."""

import contextlib
import io
import shlex
from collections.abc import Sequence
from typing import Any

from mlx_sd.cli import flags, replay
from mlx_sd.request import SETTINGS, Request

NAME = "mlx_sd.generate"


def arguments(words: str | Sequence[str]) -> Any:
    """Returns what the parser makes of a command's words after its name."""
    return flags.parser(NAME).parse_args(shlex.split(words) if isinstance(words, str) else words)


def request(words: str | Sequence[str]) -> Request:
    """Returns the request that a command's words become."""
    return replay.request_of(arguments(words))


def command(words: str | Sequence[str]) -> dict[str, Any]:
    """Returns what a command's words say beside the request: how many pictures, where they go."""
    namespace = vars(arguments(words))
    return {name: str(value) for name, value in namespace.items() if name not in SETTINGS and value is not None}


def mistake(words: str | Sequence[str]) -> str:
    """Returns the line in which the parser refuses a command; nothing where it takes it, or prints the version."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            arguments(words)
        except SystemExit as stop:
            assert stop.code in (0, 2)
    return printed.getvalue()
