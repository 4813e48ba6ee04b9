"""The flags of records whose fields have a `Setting`: `python -m mlx_sd.generate` and `python -m mlx_sd.train`."""

import argparse
import os
from pathlib import Path
from typing import Any

from .core.parser import Parser
from .setting import Setting


def text(value: str) -> str:
    """Returns text that is not empty, for argparse."""
    if not value:
        raise argparse.ArgumentTypeError("must not be empty")
    return home(value)


def home(value: str) -> str:
    """Returns text in which ~ in front is the home folder, as in --output=~/a.png, where a shell leaves it."""
    return os.path.expanduser(value) if value == "~" or value.startswith("~/") else value  # noqa: PTH111 - keeps a / at the end


def path(value: str) -> Path:
    """Returns a path that is not empty, for argparse."""
    return Path(text(value))


def add_setting(group: Any, field: str, setting: Setting) -> argparse.Action:
    """Adds the flag of one field of a record to a group of options; flags have no default, to tell them from none."""
    line = setting.help
    if setting.range is not None and not setting.range.trivial:
        line += f"; {setting.range.words(setting.unit)}"
    options: dict[str, Any] = {"help": line.replace("%", "%%"), "dest": field, "metavar": setting.metavar}
    if setting.kind is bool:
        options |= {"action": argparse.BooleanOptionalAction}
        del options["metavar"]
    elif setting.kind in (int, float):
        options |= {"type": setting.kind}
    elif setting.metavar in ("FILE", "FOLDER"):
        options |= {"type": home}
    if setting.choices:
        options |= {"choices": tuple(setting.choices), "type": setting.value_of}
    if setting.repeat:
        options |= {"action": "append"}
    if setting.without_value is not None:
        options |= {"nargs": "?", "const": setting.without_value}
    flag = setting.flag or f"--{field.replace('_', '-')}"
    action: argparse.Action
    if flag.startswith("--"):
        action = group.add_argument(flag, **options)
    else:  # the prompt, which has a place and no flag
        del options["dest"]
        action = group.add_argument(flag, nargs="?", **options)
    return action


def spell_setting(parser: Parser, action: argparse.Action, setting: Setting) -> None:
    """Adds other tools' names of a setting's flag."""
    parser.add_spellings(action, setting.aliases, setting.conversions, setting.false_friends, setting.form)
