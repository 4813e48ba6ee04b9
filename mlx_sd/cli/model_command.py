"""The command mlx-sd models: lists the models of this machine, and removes one of the cache."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import model_list
from ..core import command
from ..core.errors import InputError
from ..core.parser import Parser, program
from ..core.places import cache_folder, shown

NAME = "models"
_FOLDER = Path("models")  # of converted models, as the guide names it

_ACTIONS = {"ls": "list", "rm": "remove", "delete": "remove"}  # other tools' words

_EXAMPLES = """examples:
  mlx-sd models
  mlx-sd models --folder /data/models --json
  mlx-sd models remove sd15-0123456789ab
"""


def parser() -> Parser:
    """Returns the parser of the list and of its removal."""
    p = Parser(
        prog=program(NAME),
        description="List the models that are embedded, converted into the cache on first use, downloaded from the hub "
        "or in a folder of models; or remove one of the cache.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "action",
        nargs="?",
        choices=("list", "remove"),
        type=lambda word: _ACTIONS.get(word, word),
        default="list",
        help="default list",
    )
    p.add_argument("name", nargs="?", help="with remove: the model, by its name in the list or what it was made from")
    p.add_argument("--yes", action="store_true", help="with remove: do not ask")
    p.add_argument(
        "--folder",
        action="append",
        type=Path,
        metavar="FOLDER",
        help="list the model folders in it too; may be repeated (default: models, where that is)",
    )
    p.add_argument("--json", action="store_true", help="print the list as JSON")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = parser()
    arguments = p.parse_args(argv)
    removes = arguments.action == "remove"
    if removes and not arguments.name:
        p.error("remove which? give a name of the list")
    if not removes and (arguments.name or arguments.yes):
        p.error(f"{'--yes' if arguments.yes else repr(arguments.name)} goes with remove")
    return command.run(f"mlx-sd {NAME}", lambda: _remove(arguments) if removes else _list(arguments))


def _list(arguments: argparse.Namespace) -> None:
    for folder in arguments.folder or ():
        if not folder.is_dir():
            raise InputError(
                f"--folder {folder}: {'is a file' if folder.exists() else 'does not exist'}; give a folder"
            )
    models = model_list.entries(arguments.folder or [_FOLDER])
    if arguments.json:
        print(json.dumps([entry.to_json() for entry in models], indent=2, ensure_ascii=False))
        return
    rows = [("NAME", "WHERE", "FAMILY", "SIZE", "DTYPE", "FORMAT", "FROM")]
    for entry in models:
        row = (entry.name, entry.place, entry.family, size(entry.size), entry.dtype, entry.format)
        rows.append((*row, shown(entry.source) if entry.source else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
    print(f"\ncache: {shown(cache_folder())}", file=sys.stderr)


def _remove(arguments: argparse.Namespace) -> None:
    if arguments.json or arguments.folder:
        raise InputError("--json and --folder are of the list; leave them out with remove")
    entry = model_list.choose(arguments.name)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise InputError(f"{entry.name} ({size(entry.size)}) is only removed after a question, or with --yes")
        again = f", which is converted again from {shown(entry.source)} when it is used" if entry.source else ""
        answer = input(f"remove {entry.name}, {size(entry.size)}{again}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            print(f"{entry.name} stays")
            return
    model_list.remove(entry)
    print(f"{entry.name} is removed, {size(entry.size)}")


def size(count: int) -> str:
    """Returns a number of bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
