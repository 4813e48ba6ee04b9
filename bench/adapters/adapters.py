"""The small adapters for the embedded checkpoint, made by the project's own trainer and measured.

Pictures are drawn, an adapter is trained on them by python -m mlx_sd.train, and pictures with it and without it are
judged by rules on pixels. After Ctrl-C or a kill the same command goes on: what is finished is not made again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mlx_sd.core import command
from mlx_sd.request import MODEL
from mlx_sd.train.run import lock

from .. import arguments, results
from ..machine import describe
from ..tiny.stages import say
from . import comparison, stages
from .recipes import RECIPES

_EXAMPLES = """examples:
  python -m bench adapters --out adapters --json adapters.json    all four, hours on two cores
  python -m bench adapters --out adapters --only lilac            one of them
  python -m bench adapters --out trial --smoke                    useless ones in a minute, to try the recipe
  python -m bench adapters --out second --seed 1 --json second.json
  python -m bench adapters --compare adapters.json second.json    whether both editions have the same figures"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    rows = "\n".join(f"  {recipe.file:24} {recipe.summary}" for recipe in RECIPES.values())
    p = arguments.parser("adapters", f"{__doc__}\nadapters:\n{rows}", _EXAMPLES)
    p.add_argument("--out", type=Path, metavar="DIR", help="where the adapters go; DIR/work holds the rest")
    p.add_argument("--only", action="append", choices=tuple(RECIPES), metavar="NAME", help="make this adapter alone")
    p.add_argument("--seed", type=int, default=0, help="the edition: its scenes and its training; measures stay")
    p.add_argument("--model", default=MODEL, help=f"a checkpoint of the embedded world, default {MODEL}")
    p.add_argument("--smoke", action="store_true", help="a few pictures and steps: a test of the recipe")
    p.add_argument("--compare", nargs=2, type=Path, metavar="JSON", help="compare the results of two editions instead")
    arguments.add_json(p)
    options = p.parse_args(argv)
    if (options.out is None) == (options.compare is None):
        p.error("give either --out DIR, to make adapters, or --compare JSON JSON")
    return command.run("bench adapters", lambda: _adapters(options))


def _adapters(options: argparse.Namespace) -> None:
    if options.compare:
        results.report(comparison.compare(*options.compare), options.json)
        return
    work = stages.plan(options.out, options.model, options.seed, options.smoke)
    stages.begin(work)
    recipes = [work.recipes[name] for name in dict.fromkeys(options.only or RECIPES)]
    try:
        with lock.locked(work.out):
            entries = [stages.make(work, recipe) for recipe in recipes]
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from what is saved") from None
    for entry in entries:
        if not entry["works"] and not options.smoke:
            say(f"{entry['adapter']}: does not do what it is for, by its rule")
    values = {"measurement": "adapters", "model": options.model, "hash": work.hash, "seed": work.seed}
    values |= {"smoke": options.smoke, "size": [work.side, work.side], "adapters": entries}
    results.report(values | {"machine": describe()}, options.json)


if __name__ == "__main__":
    sys.exit(main())
