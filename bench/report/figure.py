"""Draws what bench.solvers measured at one guidance: python -m bench figure RESULTS --guidance 7.5 solvers.png."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_sd.core import command
from mlx_sd.core.errors import InputError

from .. import results
from . import plots
from .plots import COLOURS

FAMILIES = {
    "one step at a time": ("euler", "ddim", "heun", "edm", "dpmpp_2s"),
    "looking back": ("lms", "plms", "dpm_2m", "dpmpp_2m", "dpmpp_3m", "deis", "unipc"),
    "with fresh noise": ("euler_ancestral", "ddpm", "dpmpp_2m_sde", "lcm", "tcd"),
}
MEASURES = {
    "rmse": "error to the 200-step solution",
    "frechet": "Fréchet distance to true pictures",
    "clip_score": "CLIP score with the prompt",
}
TICKS = (5, 6, 8, 10, 15, 20, 30, 50)
MARKERS = "osD^vPX"

Point = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(prog="python -m bench figure", description=__doc__)
    p.add_argument("results", type=Path, help="the JSON that bench.solvers wrote")
    p.add_argument("--guidance", type=float, default=7.5, help="default 7.5")
    p.add_argument("output", type=Path, help="the PNG to write")
    arguments = p.parse_args(argv)
    return command.run(
        "bench figure", lambda: _draw(results.read(arguments.results), arguments.guidance, arguments.output)
    )


def _draw(found: results.Results, guidance: float, output: Path) -> None:
    """One row a measure, one column a family of solvers."""
    points = [p for p in found["points"] if p["guidance"] == guidance]
    if not points:
        there = sorted({p["guidance"] for p in found["points"]})
        raise InputError(f"there is nothing at guidance {guidance:g}, but at {', '.join(f'{g:g}' for g in there)}")
    figure = plots.figure(11, 9.5)
    from matplotlib.ticker import LogLocator, NullLocator

    axes = figure.subplots(len(MEASURES), len(FAMILIES), sharex=True, sharey="row")
    for row, measure in zip(axes, MEASURES, strict=True):
        for axis, family in zip(row, FAMILIES, strict=True):
            _panel(axis, points, measure, FAMILIES[family])
            _level(axis, found, measure)
        row[0].set_ylabel(MEASURES[measure])
        told = [p[measure] for p in points if p[measure]]
        if measure != "clip_score" and max(told) > 2 * min(told):
            row[0].set_yscale("log")
            row[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            row[0].yaxis.set_minor_locator(NullLocator())
        row[0].yaxis.set_major_formatter("{x:g}")
    for column, family in zip(axes.T, FAMILIES, strict=True):
        column[0].set_title(family, fontweight="bold")
        handles, labels = column[1].get_legend_handles_labels()
        column[0].legend(handles, labels, frameon=False, fontsize=8)
    axes[0, 2].text(0.04, 0.04, "no one limit: noise is drawn anew", color="0.4", transform=axes[0, 2].transAxes)
    for axis in axes[-1]:
        axis.set_xlabel("evaluations of the network")
    figure.suptitle(f"The embedded checkpoint at guidance {guidance:g}, {found['images']} pictures a point")
    plots.save(figure, output)


def _panel(axis: Any, points: Sequence[Point], measure: str, family: Sequence[str]) -> None:
    """One family in colour, the others behind it in grey."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        if point["evaluations"] <= max(TICKS):
            lines.setdefault(point["sampler"], []).append(point)
    for name, line in lines.items():
        told = [p for p in line if p[measure] is not None]
        curve = [p["evaluations"] for p in told], [p[measure] for p in told]
        if name not in family:
            axis.plot(*curve, color="0.87", linewidth=0.8, zorder=1)
        elif name == (alike := [other for other in family if other in lines and _agree(lines[other], line)])[0]:
            i = family.index(name)
            style = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 4, "linewidth": 1.4}
            axis.plot(*curve, label=", ".join(alike), zorder=3, **style)
    axis.set_xscale("log")
    axis.set_xticks(TICKS, [str(t) for t in TICKS])
    axis.xaxis.minorticks_off()
    axis.grid(color="0.94", linewidth=0.6)


def _agree(line: Sequence[Point], other: Sequence[Point]) -> bool:
    """Whether two solvers are one method here: Heun's and EDM's without churn, say."""
    return [p | {"sampler": ""} for p in line] == [p | {"sampler": ""} for p in other]


def _level(axis: Any, found: results.Results, measure: str) -> None:
    """Where true pictures are."""
    if measure == "frechet":
        low, _, high = found["other_true"]["frechet"]
        axis.axhspan(low, high, color="#0072B2", alpha=0.1, linewidth=0, zorder=0)
        axis.text(50, high, "as many true ones", ha="right", va="bottom", fontsize=7, color="0.35")
    if measure == "clip_score":
        axis.axhline(found["true"][measure], color="0.4", linewidth=1, linestyle=":", zorder=0)
        axis.text(50, found["true"][measure], "true ones", ha="right", va="bottom", fontsize=7, color="0.35")


if __name__ == "__main__":
    sys.exit(main())
