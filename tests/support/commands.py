"""Commands as people type them, parsed to requests; no picture is made."""

import contextlib
import io
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from mlx_sd.cli import flags, replay
from mlx_sd.core.parser import Parser
from mlx_sd.request import SETTINGS, Request

NAME = "mlx_sd.generate"
_STARTS = (["mlx-sd", "generate"], ["mlx-sd"], ["python", "-m", NAME])


def words_of(command: str) -> list[str]:
    """Returns a command's words after the name of the command."""
    words = shlex.split(command)
    start = next(start for start in _STARTS if words[: len(start)] == start)
    return words[len(start) :]


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


def meaning(text: str) -> dict[str, Any]:
    """Returns all that a whole command says, as JSON: settings of the request, then those of the command.

    What is as without any option is left out. Of a picture that is made again, only the options are read.
    """
    words = words_of(text)
    namespace = arguments(words)
    if namespace.from_image is None:
        plain, settings = Request().to_json(), replay.request_of(namespace).to_json()
        said = {name: value for name, value in settings.items() if value != plain.get(name)}
    else:
        said = {name: value for name in SETTINGS if (value := getattr(namespace, name, None)) is not None}
    default = vars(arguments([]))
    beside = {name: value for name, value in vars(namespace).items() if name not in SETTINGS}
    changed = {name: value for name, value in beside.items() if value != default[name]}
    return said | {name: value if isinstance(value, (int, bool)) else str(value) for name, value in changed.items()}


def options(words: Sequence[str], parser: Parser) -> Iterator[str]:
    """Yields the options of the parser that occur in a command's words, under any of their names."""
    for word in words:
        name = word.partition("=")[0]
        plain = name.lstrip("-").replace("_", "-")
        plain = plain if len(plain) == 1 else plain.lower()
        action = parser.action_of(name) or parser.action_of(f"--{plain}")
        if action is None and name.startswith("-") and plain in parser.spellings:
            action = parser.spellings[plain].action
        if action is not None and word.startswith("-"):
            yield (action.option_strings or [action.dest])[-1]


def mistake(words: str | Sequence[str]) -> str:
    """Returns the line in which the parser refuses a command; nothing where it takes it, or prints the version."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            arguments(words)
        except SystemExit as stop:
            assert stop.code in (0, 2)
    return printed.getvalue()
