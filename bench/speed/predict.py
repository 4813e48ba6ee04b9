"""What a step and a loop should take on an Apple chip's GPU, where none was at hand: python -m bench predict CHIP.

A step takes its multiplications at a part of the chip's peak, and then its bytes, each read and written once, at a part
of the memory's bandwidth. Both are counted; the two parts are fitted to published times (bench/chips.py), relative
errors squared. What that is worth, each published time says that is predicted from all the others. Guided pictures in
float16.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from mlx_sd.core import command
from mlx_sd.core.errors import InputError

from .. import results
from ..machine import describe
from ..models import UNETS
from .chips import CHIPS, POINTS, Chip, Point
from .loops import Bench, Loop, check, setting

_EXAMPLES = """examples:
  python -m bench predict "M2 Pro"
  python -m bench predict m4 m4-max --model sdxl --loop 3 --loop 5:1 --steps 30
  python -m bench predict --json bench/results/prediction.json
"""
LOOPS = ("3", "5", "3/tgate:10")


class Fit(NamedTuple):
    """The parts of a chip's peak and of its bandwidth that are reached."""

    compute: float
    bandwidth: float

    def seconds(self, chip: Chip, macs: int, size: int) -> float:
        """Of what multiplies and adds so often and moves so many bytes."""
        return 2 * macs / (self.compute * chip.flops) + size / (self.bandwidth * chip.bandwidth * 1e9)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench predict",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("chips", nargs="*", metavar="CHIP", help=f"{', '.join(CHIPS)} (default: all)")
    p.add_argument("--model", choices=tuple(UNETS), action="append", help="as often as wanted (default: all)")
    p.add_argument("--loop", action="append", metavar="LOOP", help=f"as latency's (default {', '.join(LOOPS)})")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--json", type=Path, metavar="FILE", help="write the predictions here")
    arguments = p.parse_args(argv)
    return command.run("bench predict", lambda: _predict(arguments))


def _predict(arguments: argparse.Namespace) -> None:
    chips = [named(text) for text in arguments.chips] or list(CHIPS)
    models = arguments.model or list(UNETS)
    loops = [Loop(), *(Loop.parse(text) for text in arguments.loop or LOOPS)]
    for model in models:
        check(loops, model, arguments.steps)
    found = predicted(chips, models, loops, arguments.steps)
    if arguments.json:
        results.write(arguments.json, found | {"machine": describe()})
    for line in lines(found):
        print(line)


def named(text: str) -> str:
    """The name of a chip, however it is written; InputError lists those there are."""

    def plain(name: str) -> str:
        return re.sub(r"[\s_-]|^apple", "", name.lower())

    for name in CHIPS:
        if plain(name) == plain(text):
            return name
    raise InputError(f"there is no chip {text!r} here; there are {', '.join(CHIPS)}")


def predicted(chips: Sequence[str], models: Sequence[str], loops: Sequence[Loop], steps: int) -> results.Results:
    """Seconds of a full and a cached step and of each loop, on each chip; how they were found; and how wrong they may
    be."""
    best, errors = fit(POINTS), left_out(POINTS)
    rows = []
    for model in models:
        bench = Bench(setting(model, steps, guided=True, dtype=mx.float16))
        costs = {loop: bench.costs(loop) for loop in loops}
        for chip in chips:
            seconds = {loop: [best.seconds(CHIPS[chip], *cost) for cost in costs[loop]] for loop in loops}
            full = seconds[loops[0]]
            rows += [
                {
                    "prediction": True,
                    "chip": chip,
                    "model": model,
                    "loop": str(loop),
                    "full_step": round(max(found), 4),
                    "least_step": round(min(found), 4),
                    "seconds": round(sum(found), 3),
                    "speedup": round(sum(full) / sum(found), 3),
                }
                for loop, found in seconds.items()
            ]
    return {
        "steps": steps,
        "guided": True,
        "dtype": "float16",
        "fit": {name: round(part, 4) for name, part in best._asdict().items()},
        "error": {
            "mean": round(statistics.mean(map(abs, errors)), 3),
            "worst": round(sorted(errors, key=abs)[-1], 3),
        },
        "published": [
            {**point._asdict(), "seconds": round(point.seconds, 4), "error_left_out": round(error, 3)}
            for point, error in zip(POINTS, errors, strict=True)
        ],
        "predictions": rows,
    }


def lines(found: results.Results) -> list[str]:
    """What is predicted, a line each."""
    error = found["error"]
    told = [
        f"prediction: fitted to {len(found['published'])} published times; one left out is missed by "
        f"{error['mean']:.0%} on average, {error['worst']:+.0%} at worst"
    ]
    for row in found["predictions"]:
        told.append(
            f"prediction: {row['chip']}, {row['model']}, {row['loop']}: {row['seconds']:.2f} s for {found['steps']} "
            f"steps ({row['speedup']:.2f} times as fast), a step {row['full_step']:.3f} to {row['least_step']:.3f} s"
        )
    return told


def fit(points: Sequence[Point]) -> Fit:
    """The parts with the least sum of squared relative errors, for the seconds are linear in their inverses."""
    inverse, _ = nnls(np.array([_shares(point) for point in points]), np.ones(len(points)))
    return Fit(*(1 / value if value else float("inf") for value in inverse))


def left_out(points: Sequence[Point]) -> list[float]:
    """The relative error of each point's prediction from all others."""
    found = []
    for i, point in enumerate(points):
        others = fit([*points[:i], *points[i + 1 :]])
        found.append(
            others.seconds(_chip(point), *_cost(point.model, point.latents, point.pictures)) / point.seconds - 1
        )
    return found


def _shares(point: Point) -> NDArray[np.float64]:
    """How much of a point's time its multiplications and its bytes would take at the chip's peaks."""
    macs, size = _cost(point.model, point.latents, point.pictures)
    chip = _chip(point)
    return np.array([Fit(1, np.inf).seconds(chip, macs, 0), Fit(np.inf, 1).seconds(chip, 0, size)]) / point.seconds


def _chip(point: Point) -> Chip:
    return CHIPS[point.chip]._replace(cores=point.cores)


@cache
def _cost(model: str, side: int, pictures: int) -> tuple[int, int]:
    (cost,) = Bench(setting(model, 1, side, pictures, guided=True, dtype=mx.float16)).costs(Loop())
    return cost


if __name__ == "__main__":
    sys.exit(main())
