"""Sections about samplers and schedules: the results of solvers and ays.

A point of solvers is a sampler with a number of steps at one guidance, its evaluations of the network, and its scores.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import results
from ..markdown import DASH, table
from .cells import machine

SOLVERS, ALIGNED = "solvers-tiny-cpu.json", "ays-tiny-cpu.json"
MOST = (5, 10, 20)  # evaluations of the network that a column allows


def section(folder: Path) -> str:
    """Returns the table of samplers: error and truth with at most so many evaluations of the network."""
    values = results.read(folder / SOLVERS)
    points = values["points"]
    unguided, guided = guidances(values)
    head = ["with at most this many evaluations"]
    for title in ("error, no guidance", f"error, guidance {guided:g}", f"true, guidance {guided:g}"):
        head += [f"{title}: {MOST[0]}", *map(str, MOST[1:])]
    cells = [
        [f"`{name}`", *_cells(points, name, unguided, guided)]
        for name in dict.fromkeys(point["sampler"] for point in points)
    ]
    low, middle, high = values["other_true"]["frechet"]
    note = (
        f"{values['images']} pictures a point, {values['size']} pixels along each side. At so few, the Fréchet "
        f"distance of true pictures of other captions lies between {low:.0f} and {high:.0f}, in the middle "
        f"{middle:.0f}; of true pictures of the same captions it is {values['true']['frechet']:.0f}, and their CLIP "
        f"score {values['true']['clip_score']:.1f}."
    )
    return f"{table(head, cells)}\n\n{note} {machine(values)}"


def guidances(values: results.Results) -> tuple[float, float]:
    """Returns the two guidances of the results: without, and with."""
    low, high = sorted({point["guidance"] for point in values["points"]})
    return low, high


def _cells(points: Sequence[dict[str, Any]], name: str, unguided: float, guided: float) -> Iterator[str]:
    """Yields a sampler's row: at most so many evaluations, as far as it can have them."""
    for guidance, measure in ((unguided, "rmse"), (guided, "rmse"), (guided, "truth")):
        for most in MOST:
            curve = (p for p in points if (p["guidance"], p["sampler"]) == (guidance, name))
            allowed = [point for point in curve if point["evaluations"] <= most]
            value = max(allowed, key=lambda p: int(p["evaluations"]))[measure]
            if measure == "truth":
                yield f"{value['percent']:.0f}%"
            else:
                yield DASH if value is None else f"{value:.3f}"


def aligned(folder: Path) -> str:
    """Returns the table of schedules beside the one that was optimised."""
    values = results.read(folder / ALIGNED)
    head = ["schedule", "bound", "error", "Fréchet distance", "CLIP score", "true"]
    cells = [
        [
            f"`{name}`",
            f"{row['bound']:.0f}",
            f"{row['rmse']:.3f}",
            f"{row['frechet']:.1f}",
            f"{row['clip_score']:.1f}",
            f"{row['truth']['percent']:.0f}%",
        ]
        for name, row in values["schedules"].items()
    ]
    return table(head, cells)
