"""The command mlx-sd: one name for all commands, and pictures from a prompt without one."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from ..core.parser import Parser, program
from ..core.version import VERSION

NAME = "mlx-sd"


class Command(NamedTuple):
    """One command: the module that has its `main`, and one line about it."""

    module: str
    summary: str


# Modules by name: commands build on the packages above this one, and --help imports none of them.
COMMANDS = {
    "generate": Command("mlx_sd.cli.generate", 'pictures from a prompt; what mlx-sd "a red tent" runs too'),
    "studio": Command("mlx_sd.studio.command", "a page in the browser, and the APIs of OpenAI Images and A1111"),
    "train": Command("mlx_sd.train.command", "adapters, words, control networks and UNets from your own pictures"),
    "convert": Command("convert.__main__", "checkpoints to model folders and back; what a file is"),
    "coreml": Command("coreml.__main__", "Core ML packages for apps"),
    "models": Command("mlx_sd.cli.model_command", "the models of this machine: list them, remove one"),
    "tune": Command("mlx_sd.tune.command", "measures what is faster on this machine, and uses it from then on"),
    "hosts": Command("mlx_sd.hosts.command", "checks of the Macs in a hostfile of mlx.launch before a long run"),
    "bench": Command("bench.__main__", "measurements"),
    "doctor": Command("mlx_sd.cli.doctor", "what a report of a problem needs: versions, device, memory, cache"),
    "completion": Command("mlx_sd.cli.completion", "a script by which bash or zsh completes all this"),
}
_ALIKE = 0.85  # how alike a first word and a command are for a slip: genrate is one, beach (bench) is a prompt


def overview() -> Parser:
    """Returns the parser whose help lists the commands."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    p = Parser(
        prog=program(),
        usage=f'{program()} [COMMAND] ...   or   {program()} "PROMPT" ...',
        description="Stable Diffusion in MLX, with DeepCache: pictures, models, Core ML packages, measurements.",
        epilog=f"""commands:
{listing}

A first word that is no command is a prompt, and the options are those of generate:
  {program()} "a red tent on green grass" --steps 30 --output tent.png
  {program()} generate --help
A prompt that is a command's name goes behind generate:
  {program()} generate bench
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--version", action="version", version=f"mlx-sd {VERSION}")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names, or makes pictures of it; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    first = words[0] if words else "--help"
    if first in ("-h", "--help", "help") and len(words) < 2:
        overview().print_help()
        return 0
    if first == "help":
        words = [*words[1:2], "--help"]
        first = words[0]
    if first in COMMANDS:
        return _run(first, words[1:])
    if match := _slip(first):
        prompt = f"{program('mlx_sd.generate')} {first}"
        print(f"{NAME}: no command {first!r}; did you mean {match!r}? For a picture of it: {prompt}", file=sys.stderr)
        return 2
    return _run("generate", words)


def _run(name: str, words: Sequence[str]) -> int:
    code: int = import_module(COMMANDS[name].module).main(words)
    return code


def _slip(word: str) -> str | None:
    """Returns the command that a misspelled first word means, or None; ghosts is a prompt, and no slip of hosts."""
    if not word.isalpha():
        return None
    names = [name for name in COMMANDS if name[0] == word[0].lower()]
    return next(iter(difflib.get_close_matches(word.lower(), names, n=1, cutoff=_ALIKE)), None)
