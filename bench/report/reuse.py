"""Sections and a plot about quality against cost of DeepCache and T-GATE: the results of curves and policies.

A row of curves ("ways" in the file) is a solver with a number of steps and a loop, its cost in forwards of the whole
guided UNet, and its scores.
"""

import statistics
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.reuse.deepcache import parse
from mlx_sd.reuse.presets import EMBEDDED, Preset

from .. import results
from ..markdown import DASH, TIMES, table
from ..speed.loops import Loop
from . import plots, truth
from .cells import flags, machine

CURVES, POLICIES = "curves-tiny-cpu.json", "policies-tiny.json"
PAPER = {"sampler": "ddim", "steps": 50}  # the solver and steps of the papers, with which the others are compared
# How much worse than PAPER's a row may be to count as equally good: the last in points of truth.
FRECHET_FACTOR, CLIP_LOSS, TRUTH_LOSS = 1.02, 1.0, 1.0


def papers(folder: Path) -> str:
    """Returns the papers' table: 50 steps of DDIM with DeepCache of each interval and kind, T-GATE, and both."""
    values = results.read(folder / CURVES)
    rows = [row for row in values["ways"] if row.items() >= PAPER.items()]
    full = next(row for row in rows if row["loop"] == "full")
    head = ["DDIM, 50 steps", f"fewer {TIMES}", "true", "Frechet distance", "CLIP score", "PSNR to every step full"]
    cells = [[flags(row["loop"]), f"{full['forwards'] / row['forwards']:.2f}", *_scores(row)] for row in rows]
    low, middle, high = values["other_true"]["frechet"]
    note = (
        f"{values['images']} pictures a row, against {values['true_images']} true ones. As many other true pictures "
        f"are at {middle:.1f} ({low:.1f} to {high:.1f})."
    )
    return f"{table(head, cells)}\n\n{note} {machine(values)}"


def by_cost(folder: Path) -> str:
    """Returns the table of all rows by their cost, in forwards of the whole guided UNet."""
    values = results.read(folder / CURVES)
    paper = _paper(values)
    head = ["forwards", "solver, steps", "reuse", "true", "Frechet distance", "to that of 50 of DDIM", "CLIP score"]
    cells = [
        [
            f"{row['forwards']:.2f}",
            f"{row['sampler']}, {row['steps']}",
            flags(row["loop"]),
            _truth(row),
            f"{row['frechet']:.1f}",
            f"{100 * (row['frechet'] / paper['frechet'] - 1):+.1f}%",
            f"{row['clip_score']:.2f}",
        ]
        for row in sorted(values["ways"], key=lambda row: float(row["forwards"]))
    ]
    row = best(values)
    note = (
        "The least within 2% of the Frechet distance of 50 steps of DDIM, a point of their CLIP score and a point of "
        "their truth is "
        f"{row['sampler']} in {row['steps']} steps, {flags(row['loop'])}: "
        f"{paper['forwards'] / row['forwards']:.1f} times fewer multiplications."
    )
    return f"{table(head, cells)}\n\n{note}"


def presets(folder: Path) -> str:
    """Returns the table of the embedded checkpoint's --speed presets, beside 50 steps of DDIM."""
    values = results.read(folder / CURVES)
    rows = {truth.PAPER: _paper(values)} | {
        f"`--speed {name}`": row for name, preset in EMBEDDED.items() if (row := row_of(values, preset))
    }
    head = ["", "sampler, steps", "reuse", "forwards", "true", "Frechet distance", "CLIP score"]
    cells = [
        [
            name,
            f"{row['sampler']}, {row['steps']}",
            flags(row["loop"]),
            f"{row['forwards']:.2f}",
            f"{truth.percent(folder, name):.1f}%",
            *_scores(row)[1:3],
        ]
        for name, row in rows.items()
    ]
    count = results.read(folder / truth.OTHERS[truth.PAPER])["captions"]
    return f"{table(head, cells)}\n\nTrue: of the first {count} captions of `python -m bench truth`."


def row_of(values: results.Results, preset: Preset) -> results.Results | None:
    """Returns the row measured with a preset's settings, None if there is none."""
    loop = Loop(preset.deepcache, preset.tgate)
    settings = {"sampler": preset.sampler, "steps": preset.steps}
    rows = (row for row in values["ways"] if row.items() >= settings.items() and Loop.parse(row["loop"]) == loop)
    return next(rows, None)


def preset_note(folder: Path, name: str) -> str:
    """Returns the text that a preset of the embedded checkpoint gives about its own cost and quality."""
    values = results.read(folder / CURVES)
    row = row_of(values, EMBEDDED[name])
    if row is None:
        raise InputError(f"{CURVES} has no row of --speed {name}; measure it: python -m bench curves")
    fewer = _paper(values)["forwards"] / row["forwards"]
    true, paper = truth.percent(folder, f"`--speed {name}`"), truth.percent(folder, truth.PAPER)
    return (
        f"{fewer:.1f} times fewer multiplications than 50 steps of DDIM; of the captions measured {true:.1f}% come "
        f"true, there {paper:.1f}%"
    )


def forecasts(folder: Path) -> str:
    """Returns the table of errors against the full loop, of each policy and degree of forecast."""
    values = results.read(folder / POLICIES)
    errors: dict[tuple[int, int, str], dict[int, str]] = {}
    for run in values["runs"]:
        policy = parse(run["policy"])
        by_degree = errors.setdefault((run["steps"], run["interval"], type(policy).__name__), {})
        by_degree[policy.forecast] = f"{statistics.mean(run['rms']):.3f}"
    head = ["steps", "one in", "policy", "held", "degree 1", "degree 2"]
    cells = [[str(n), str(i), kind, *(degrees[d] for d in (0, 1, 2))] for (n, i, kind), degrees in errors.items()]
    return f"{table(head, cells)}\n\nRoot mean square error of the latents, whose deviation is {values['deviation']}."


def rules(folder: Path) -> str:
    """Returns the table of Spectrum and SADA, beside evenly spaced lists of as many full evaluations."""
    values = results.read(folder / POLICIES)
    head = ["steps", "policy", "full evaluations", "error", "evenly spaced, held", "evenly spaced, degree 1"]
    cells = [
        [
            str(row["steps"]),
            _rule(row["policy"]),
            f"{row['full']:.1f}",
            *(f"{statistics.mean(run['rms']):.3f}" for run in (row, *row["even"])),
        ]
        for row in values["rules"]
    ]
    return table(head, cells)


def _rule(name: str) -> str:
    """Returns a policy as it is written where the numbers behind its first are the defaults."""
    policy = parse(name)
    return f"`{policy.prefix}{float(policy.arguments().split(',')[0]):g}`"


def curves(folder: Path) -> Any:
    """Plots truth, Frechet distance and CLIP score against forwards, by how evaluations are saved."""
    rows = [row | {"true": row["truth"]["percent"]} for row in results.read(folder / CURVES)["ways"]]
    figure = plots.figure(11, 4.2)
    for axes, score, title in zip(
        figure.subplots(1, 3),
        ("true", "frechet", "clip_score"),
        ("captions that come true, percent", "Frechet distance (less is better)", "CLIP score"),
        strict=True,
    ):
        groups = dict.fromkeys((row["group"], row["sampler"]) for row in rows)
        markers = dict(zip(dict.fromkeys(group for group, _ in groups), "osD^v", strict=False))
        colours = dict(zip(markers, plots.COLOURS, strict=False))
        for group, sampler in groups:
            points = sorted(
                (row["forwards"], row[score]) for row in rows if (row["group"], row["sampler"]) == (group, sampler)
            )
            style = {"marker": markers[group], "color": colours[group], "linewidth": 0.8, "markersize": 5}
            style |= {"linestyle": "-" if group == "fewer steps" else "none"}
            style |= {"markerfacecolor": "none"} if sampler == PAPER["sampler"] else {}
            axes.plot(*zip(*points, strict=True), label=f"{group}, {sampler}", **style)
        axes.set_xscale("log")
        axes.set_xticks(ticks := [4, 5, 6, 8, 10, 15, 25, 50], [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("forwards of the whole guided UNet (counted)")
        axes.set_title(title)
        if score == "frechet":
            worst = max(row["frechet"] for row in rows if row["forwards"] > 7)
            axes.set_ylim(top=1.15 * worst)
    axes.legend(fontsize=7)
    return figure


def best(values: results.Results) -> results.Results:
    """Returns the row with the fewest multiplications that is as good as 50 steps of DDIM.

    That is a Frechet distance within 2% of theirs, and a CLIP score and a truth at most a point lower: very few steps
    end in clear pictures that show less of the prompt.
    """
    paper = _paper(values)
    rows = [row for row in values["ways"] if row["frechet"] <= FRECHET_FACTOR * paper["frechet"]]
    rows = [row for row in rows if row["clip_score"] >= paper["clip_score"] - CLIP_LOSS]
    rows = [row for row in rows if row["truth"]["percent"] >= paper["truth"]["percent"] - TRUTH_LOSS]
    cheapest: results.Results = min(rows, key=lambda row: float(row["forwards"]))
    return cheapest


def _paper(values: results.Results) -> results.Results:
    row: results.Results = next(row for row in values["ways"] if row.items() >= {**PAPER, "loop": "full"}.items())
    return row


def _scores(row: results.Results) -> list[str]:
    psnr = f"{row['psnr']:.1f} dB" if row["psnr"] else DASH
    return [_truth(row), f"{row['frechet']:.1f}", f"{row['clip_score']:.2f}", psnr]


def _truth(row: results.Results) -> str:
    return f"{row['truth']['percent']:.0f}%"
