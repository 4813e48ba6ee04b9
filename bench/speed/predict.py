"""Predicted seconds of a step and a loop on an Apple chip's GPU: python -m bench predict CHIP.

The model: a step takes its multiplications at a fraction of the chip's peak, then its bytes, each read and written
once, at a fraction of the memory's bandwidth, and then the same time for each of its operations, however small. All
three are counted; the two fractions and the time are fitted to published times (bench/speed/chips.py) by least squares
of relative errors. The error reported is that of predicting each published time from all the others. Guided pictures
in float16.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from mlx_sd.core import command
from mlx_sd.core.errors import InputError

from .. import arguments, results
from ..machine import describe
from ..models import UNETS
from .chips import CHIPS, POINTS, Chip, Point
from .loops import Bench, Cost, Loop, check, setting

_EXAMPLES = """examples:
  python -m bench predict "M2 Pro"
  python -m bench predict m4 m4-max --model sdxl --loop 3 --loop 5:1 --steps 30
  python -m bench predict --json bench/results/prediction.json
"""
LOOPS = ("3", "5", "3/tgate:10")


class Fit(NamedTuple):
    """The fractions of a chip's peak and of its bandwidth that are reached, and the seconds an operation adds."""

    compute: float
    bandwidth: float
    launch: float

    def seconds(self, chip: Chip, cost: Cost) -> float:
        """Returns the seconds of multiply-adds, of moving bytes, and of launching operations."""
        computing = 2 * cost.macs / (self.compute * chip.flops)
        return computing + cost.bytes / (self.bandwidth * chip.bandwidth * 1e9) + self.launch * cost.operations


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("predict", __doc__, _EXAMPLES)
    p.add_argument("chips", nargs="*", metavar="CHIP", help=f"{', '.join(CHIPS)} (default: all)")
    p.add_argument("--model", choices=tuple(UNETS), action="append", help="may be repeated (default: all)")
    p.add_argument("--loop", action="append", metavar="LOOP", help=f"as in latency (default {', '.join(LOOPS)})")
    p.add_argument("--steps", type=int, default=50, help="of the sampler")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return command.run("bench predict", lambda: _predict(options))


def _predict(options: argparse.Namespace) -> None:
    chips = [chip_name(text) for text in options.chips] or list(CHIPS)
    models = options.model or list(UNETS)
    loops = [Loop(), *(Loop.parse(text) for text in options.loop or LOOPS)]
    for model in models:
        check(loops, model, options.steps)
    values = predict(chips, models, loops, options.steps)
    if options.json:
        results.write(options.json, values | {"machine": describe()})
    for line in lines(values):
        print(line)


def chip_name(text: str) -> str:
    """Returns the name in CHIPS of a chip, written with any case, spaces or dashes; InputError lists the names."""

    def plain(name: str) -> str:
        """Returns the name without spaces, dashes and capitals."""
        return re.sub(r"[\s_-]|^apple", "", name.lower())

    for name in CHIPS:
        if plain(name) == plain(text):
            return name
    raise InputError(f"there is no chip {text!r} here; there are {', '.join(CHIPS)}")


def predict(chips: Sequence[str], models: Sequence[str], loops: Sequence[Loop], steps: int) -> results.Results:
    """Predicts the seconds of a full and a cached step and of each loop on each chip; reports the fit and its error."""
    best, errors = fit(POINTS), left_out(POINTS)
    rows = []
    for model in models:
        bench = Bench(setting(model, steps, guided=True, dtype=mx.float16))
        costs = {loop: bench.costs(loop) for loop in loops}
        for chip in chips:
            seconds = {loop: [best.seconds(CHIPS[chip], cost) for cost in costs[loop]] for loop in loops}
            full = seconds[loops[0]]
            rows += [
                {
                    "prediction": True,
                    "chip": chip,
                    "model": model,
                    "loop": str(loop),
                    "full_step": round(max(evaluations), 4),
                    "least_step": round(min(evaluations), 4),
                    "seconds": round(sum(evaluations), 3),
                    "speedup": round(sum(full) / sum(evaluations), 3),
                }
                for loop, evaluations in seconds.items()
            ]
    return {
        "steps": steps,
        "guided": True,
        "dtype": "float16",
        "fit": {name: float(f"{value:.4g}") for name, value in best._asdict().items()},
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


def lines(values: results.Results) -> list[str]:
    """Describes the predictions in one line each, after a line about their error."""
    error = values["error"]
    text = [
        f"prediction: fitted to {len(values['published'])} published times; one left out is missed by "
        f"{error['mean']:.0%} on average, {error['worst']:+.0%} at worst"
    ]
    for row in values["predictions"]:
        text.append(
            f"prediction: {row['chip']}, {row['model']}, {row['loop']}: {row['seconds']:.2f} s for {values['steps']} "
            f"steps ({row['speedup']:.2f} times as fast), a step {row['full_step']:.3f} to {row['least_step']:.3f} s"
        )
    return text


def fit(points: Sequence[Point]) -> Fit:
    """Fits the three numbers by least squares of relative errors; seconds are linear in the fractions' inverses."""
    (compute, bandwidth, launch), _ = nnls(np.array([_shares(point) for point in points]), np.ones(len(points)))
    fractions = [1 / inverse if inverse else float("inf") for inverse in (compute, bandwidth)]
    return Fit(fractions[0], fractions[1], float(launch))


def left_out(points: Sequence[Point]) -> list[float]:
    """Returns the relative error of each point's prediction from all other points."""
    errors = []
    for i, point in enumerate(points):
        remaining = fit([*points[:i], *points[i + 1 :]])
        seconds = remaining.seconds(_chip(point), _cost(point.model, point.latents, point.pictures))
        errors.append(seconds / point.seconds - 1)
    return errors


def _shares(point: Point) -> NDArray[np.float64]:
    """The shares of a point's time: of multiplications and bytes at the chip's peaks, and of a second an operation."""
    cost, chip = _cost(point.model, point.latents, point.pictures), _chip(point)
    parts = Fit(1, np.inf, 0), Fit(np.inf, 1, 0), Fit(np.inf, np.inf, 1)
    return np.array([part.seconds(chip, cost) for part in parts]) / point.seconds


def _chip(point: Point) -> Chip:
    return CHIPS[point.chip]._replace(cores=point.cores)


@cache
def _cost(model: str, side: int, pictures: int) -> Cost:
    (cost,) = Bench(setting(model, 1, side, pictures, guided=True, dtype=mx.float16)).costs(Loop())
    return cost


if __name__ == "__main__":
    sys.exit(main())
