"""The command mlx-sd completion: prints the shell's script that completes commands, options and names."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from .. import samplers, schedule
from ..core import command
from ..core.errors import Failure
from ..core.parser import Parser, program
from ..discrete import calls
from ..discrete.schedules import NAMES as TOKEN_SCHEDULES
from ..hires_setting import MODES
from . import flags
from .main import COMMANDS, overview
from .main import NAME as NAME_OF_ALL

NAME = "completion"
SHELLS = ("bash", "zsh")
# What an option takes -> what the shell completes.
_FILES = {
    **dict.fromkeys(("FILE", "PNG", "PATH", "PATH[:SCALE[:W,W,...]]"), "FILE"),
    "FOLDER": "DIRECTORY",
    "DIR": "DIRECTORY",
}
_NAMES = {
    "sampler": lambda: (*samplers.names(), *calls.NAMES),
    "schedule": lambda: (*schedule.names(), *TOKEN_SCHEDULES[:2]),
    "hires_mode": lambda: MODES,
}

_EXAMPLES = """to use it:
  bash   mlx-sd completion bash > ~/.local/share/bash-completion/completions/mlx-sd
  zsh    mlx-sd completion zsh > ~/.zsh/completions/_mlx-sd      (a folder of $fpath)
"""


def parser() -> Parser:
    """Returns the parser of the shell's name."""
    p = Parser(
        prog=program(NAME),
        description="Print a script by which the shell completes mlx-sd.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("shell", choices=SHELLS, help="the shell that is to complete")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = parser().parse_args(argv)
    return command.run(f"mlx-sd {NAME}", lambda: print(script(arguments.shell)))


def script(shell: str) -> str:
    """Returns the script for a shell, "bash" or "zsh"; Failure where shtab is not installed."""
    try:
        import shtab
    except ImportError:
        raise Failure("completion needs shtab; install it with `pip install shtab`") from None
    text: str = shtab.complete(_all_commands(shtab), shell=shell)
    return text


def _all_commands(shtab: Any) -> argparse.ArgumentParser:
    """One parser with all commands under it, which shtab reads; the options of generate stand at its top too."""
    root = overview()
    root.prog = NAME_OF_ALL
    commands = root.add_subparsers(dest="command", metavar="COMMAND")
    inners: dict[str, argparse.ArgumentParser] = vars(commands)["choices"]
    for name, entry in COMMANDS.items():
        commands.add_parser(name, help=entry.summary)
        inner = _parser(name, entry.module)
        inner.description = entry.summary
        for action in inner._actions:
            if action.dest in _NAMES and action.option_strings:
                action.choices = _NAMES[action.dest]()
            elif kind := _FILES.get(str(action.metavar)):
                vars(action)["complete"] = getattr(shtab, kind)  # where shtab looks for it
        inners[name] = inner
    for action in inners["generate"]._actions:
        if action.option_strings and not any(map(root.action_of, action.option_strings)):
            root._add_action(action)
    return root


def _parser(name: str, module: str) -> argparse.ArgumentParser:
    """Returns the parser of a command; of bench, one that knows its names alone."""
    if name == "generate":
        return flags.parser("mlx_sd.generate")
    if name == "bench":
        p = Parser(prog="mlx-sd bench")
        p.add_argument("measurement", choices=tuple(import_module(module).COMMANDS))
        return p
    inner: argparse.ArgumentParser = import_module(module).parser()
    return inner
