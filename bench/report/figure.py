"""Plots of what solvers measured, at one guidance each.

Which samplers there are, and the column of each, follows from the results.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from .. import results
from ..quality.solvers import EVALUATIONS
from . import plots, solvers

COLUMNS = ("one evaluation a step", "two evaluations a step", "with fresh noise")
MEASURES = {
    "rmse": "error to the 200-step solution",
    "frechet": "Fréchet distance to true pictures",
    "clip_score": "CLIP score with the prompt",
}
# Of the lines of one column; from the start again where there are more.
STYLES = [
    {"color": color, "marker": marker, "linestyle": line}
    for line, (color, marker) in product(("-", "--"), zip(plots.COLOURS, "osD^vPX", strict=True))
]

Point = dict[str, Any]


def unguided(folder: Path) -> Any:
    """Plots what solvers measured without guidance."""
    values = results.read(folder / solvers.SOLVERS)
    return drawn(values, solvers.guidances(values)[0])


def guided(folder: Path) -> Any:
    """Plots what solvers measured with guidance."""
    values = results.read(folder / solvers.SOLVERS)
    return drawn(values, solvers.guidances(values)[1])


def columns(points: Sequence[Point]) -> dict[str, str]:
    """Returns the column of each sampler that was measured, one of COLUMNS, in the order of the results."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(point["sampler"], []).append(point)
    return {sampler: _column(line) for sampler, line in lines.items()}


def _column(line: Sequence[Point]) -> str:
    if all(point["rmse"] is None for point in line):  # with fresh noise there is no one solution to be near to
        return COLUMNS[2]
    most = max(line, key=lambda point: int(point["evaluations"]))
    return COLUMNS[1] if most["evaluations"] > 1.5 * most["steps"] else COLUMNS[0]


def drawn(values: results.Results, guidance: float) -> Any:
    """Plots the points at one guidance: one row a measure, one column of COLUMNS a column."""
    points = [point for point in values["points"] if point["guidance"] == guidance]
    points = [point for point in points if point["evaluations"] <= max(EVALUATIONS)]
    samplers = columns(points)
    figure = plots.figure(11, 9.5)
    from matplotlib.ticker import LogLocator, NullLocator

    axes = figure.subplots(len(MEASURES), len(COLUMNS), sharex=True, sharey="row")
    for row, measure in zip(axes, MEASURES, strict=True):
        for axis, column in zip(row, COLUMNS, strict=True):
            _panel(axis, points, measure, [name for name in samplers if samplers[name] == column])
            _true_level(axis, values, measure)
        row[0].set_ylabel(MEASURES[measure])
        numbers = [point[measure] for point in points if point[measure]]
        if measure != "clip_score" and max(numbers) > 2 * min(numbers):
            row[0].set_yscale("log")
            row[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            row[0].yaxis.set_minor_locator(NullLocator())
        row[0].yaxis.set_major_formatter("{x:g}")
    for axis, column in zip(axes.T, COLUMNS, strict=True):
        axis[0].set_title(column, fontweight="bold")
        handles, labels = axis[1].get_legend_handles_labels()
        axis[0].legend(handles, labels, frameon=False, fontsize=8)
    axes[0, 2].text(0.04, 0.04, "no one limit: noise is drawn anew", color="0.4", transform=axes[0, 2].transAxes)
    for axis in axes[-1]:
        axis.set_xlabel("evaluations of the network")
    figure.suptitle(f"The embedded checkpoint at guidance {guidance:g}, {values['images']} pictures a point")
    return figure


def _panel(axis: Any, points: Sequence[Point], measure: str, samplers: Sequence[str]) -> None:
    """The samplers of one column in colour, the others behind them in grey."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(point["sampler"], []).append(point)
    for name, line in lines.items():
        measured = [point for point in line if point[measure] is not None]
        curve = [point["evaluations"] for point in measured], [point[measure] for point in measured]
        if name not in samplers:
            axis.plot(*curve, color="0.87", linewidth=0.8, zorder=1)
        elif name == (names := [sampler for sampler in samplers if _same_points(lines[sampler], line)])[0]:
            style = STYLES[samplers.index(name) % len(STYLES)]
            axis.plot(*curve, label=", ".join(names), zorder=3, markersize=4, linewidth=1.4, **style)
    axis.set_xscale("log")
    axis.set_xticks(EVALUATIONS, [str(tick) for tick in EVALUATIONS])
    axis.xaxis.minorticks_off()
    axis.grid(color="0.94", linewidth=0.6)


def _same_points(line: Sequence[Point], reference: Sequence[Point]) -> bool:
    """Tells whether two samplers are one method here, as Heun's and EDM's without churn are."""
    return [point | {"sampler": ""} for point in line] == [point | {"sampler": ""} for point in reference]


def _true_level(axis: Any, values: results.Results, measure: str) -> None:
    """Marks the scores of true pictures."""
    last = EVALUATIONS[-1]
    if measure == "frechet":
        low, _, high = values["other_true"]["frechet"]
        axis.axhspan(low, high, color="#0072B2", alpha=0.1, linewidth=0, zorder=0)
        axis.text(last, high, "as many true ones", ha="right", va="bottom", fontsize=7, color="0.35")
    if measure == "clip_score":
        axis.axhline(values["true"][measure], color="0.4", linewidth=1, linestyle=":", zorder=0)
        axis.text(last, values["true"][measure], "true ones", ha="right", va="bottom", fontsize=7, color="0.35")
