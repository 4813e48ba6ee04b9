"""What reuse is worth: sections and a plot of what bench.curves and bench.policies measured."""

import statistics
from pathlib import Path
from typing import Any

from mlx_sd.reuse.deepcache import parse
from mlx_sd.reuse.presets import EMBEDDED, Preset

from .. import results
from ..speed.loops import Loop
from . import plots
from .speed import DASH, TIMES, machine, table

CURVES, POLICIES = "curves-tiny-cpu.json", "policies-tiny.json"
PAPER = {"sampler": "ddim", "steps": 50}
TARGET = 8  # times fewer multiplications than PAPER's, at its quality within 2%


def papers(folder: Path) -> str:
    """The papers' tables: 50 steps of DDIM under DeepCache of each interval and kind, T-GATE, and both."""
    told = results.read(folder / CURVES)
    found = [way for way in told["ways"] if way.items() >= PAPER.items()]
    whole = next(way for way in found if way["loop"] == "full")
    head = ["DDIM, 50 steps", f"fewer {TIMES}", "Frechet distance", "CLIP score", "PSNR to every step full"]
    rows = [[_flags(way), f"{whole['forwards'] / way['forwards']:.2f}", *_quality(way)] for way in found]
    low, middle, high = told["other_true"]["frechet"]
    floor = (
        f"{told['images']} pictures a row, against {told['true_images']} true ones. As many other true pictures are at "
        f"{middle:.1f} ({low:.1f} to {high:.1f})."
    )
    return f"{table(head, rows)}\n\n{floor} {machine(told)}"


def worth(folder: Path) -> str:
    """All ways by what they cost, in forwards of the whole guided UNet."""
    told = results.read(folder / CURVES)
    whole = _paper(told)
    head = ["forwards", "solver, steps", "reuse", "Frechet distance", "to that of 50 steps of DDIM", "CLIP score"]
    rows = [
        [
            f"{way['forwards']:.2f}",
            f"{way['sampler']}, {way['steps']}",
            _flags(way),
            f"{way['frechet']:.1f}",
            f"{100 * (way['frechet'] / whole['frechet'] - 1):+.1f}%",
            f"{way['clip_score']:.2f}",
        ]
        for way in sorted(told["ways"], key=lambda way: float(way["forwards"]))
    ]
    return f"{table(head, rows)}\n\n{_best(told, whole)}"


def presets(folder: Path) -> str:
    """What --speed chooses for the embedded checkpoint, beside 50 steps of DDIM."""
    told = results.read(folder / CURVES)
    ways = {"50 steps of DDIM": _paper(told)} | {
        f"`--speed {name}`": found for name, preset in EMBEDDED.items() if (found := of(told, preset))
    }
    head = ["", "sampler, steps", "reuse", "forwards", "Frechet distance", "CLIP score"]
    rows = [
        [name, f"{way['sampler']}, {way['steps']}", _flags(way), f"{way['forwards']:.2f}", *_quality(way)[:2]]
        for name, way in ways.items()
    ]
    return table(head, rows)


def known(told: results.Results, way: results.Results) -> str:
    """What a preset says of itself."""
    whole = _paper(told)
    fewer, clip_score = whole["forwards"] / way["forwards"], way["clip_score"] - whole["clip_score"]
    frechet = 100 * (way["frechet"] / whole["frechet"] - 1)
    return (
        f"{fewer:.1f} times fewer multiplications than 50 steps of DDIM, Frechet distance {frechet:+.1f}%, "
        f"CLIP score {clip_score:+.1f}"
    )


def of(told: results.Results, preset: Preset) -> results.Results | None:
    """The way that a preset is, where it was measured."""
    loop = Loop(preset.deepcache, preset.tgate)
    asked = {"sampler": preset.sampler, "steps": preset.steps}
    found = (way for way in told["ways"] if way.items() >= asked.items() and Loop.parse(way["loop"]) == loop)
    return next(found, None)


def forecasts(folder: Path) -> str:
    """How far each policy and degree of forecast ends from every step full."""
    told = results.read(folder / POLICIES)
    cells: dict[tuple[int, int, str], dict[int, str]] = {}
    for run in told["runs"]:
        policy = parse(run["policy"])
        kind = type(policy).__name__
        cell = cells.setdefault((run["steps"], run["interval"], kind), {})
        cell[policy.forecast] = f"{statistics.mean(run['rms']):.3f}"
    head = ["steps", "one in", "policy", "held", "degree 1", "degree 2"]
    rows = [[str(n), str(i), kind, *(cell[d] for d in (0, 1, 2))] for (n, i, kind), cell in cells.items()]
    return f"{table(head, rows)}\n\nRoot mean square error of the latents, whose deviation is {told['deviation']}."


def curves(folder: Path) -> Any:
    """Frechet distance and CLIP score against forwards, by what is saved how."""
    told = results.read(folder / CURVES)
    figure = plots.figure(9, 4.2)
    for axes, name, title in zip(
        figure.subplots(1, 2),
        ("frechet", "clip_score"),
        ("Frechet distance (less is better)", "CLIP score"),
        strict=True,
    ):
        groups = dict.fromkeys((way["group"], way["sampler"]) for way in told["ways"])
        marks = dict(zip(dict.fromkeys(g for g, _ in groups), "osD^v", strict=False))
        colours = dict(zip(marks, plots.COLOURS, strict=False))
        for group, sampler in groups:
            points = sorted(
                (way["forwards"], way[name])
                for way in told["ways"]
                if (way["group"], way["sampler"]) == (group, sampler)
            )
            how = {"marker": marks[group], "color": colours[group], "linewidth": 0.8, "markersize": 5}
            how |= {"linestyle": "-" if group == "fewer steps" else "none"}
            how |= {"markerfacecolor": "none"} if sampler == PAPER["sampler"] else {}
            axes.plot(*zip(*points, strict=True), label=f"{group}, {sampler}", **how)
        axes.set_xscale("log")
        axes.set_xticks(ticks := [4, 5, 6, 8, 10, 15, 25, 50], [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("forwards of the whole guided UNet (counted)")
        axes.set_title(title)
        if name == "frechet":
            worst = max(way["frechet"] for way in told["ways"] if way["forwards"] > 7)
            axes.set_ylim(top=1.15 * worst)
    axes.legend(fontsize=7)
    return figure


def best(told: results.Results) -> results.Results:
    """The way with the fewest multiplications within 2% of the Frechet distance of 50 steps of DDIM, and a point of
    their CLIP score: few steps end in clear pictures that show less of what was asked for."""
    whole = _paper(told)
    near = [way for way in told["ways"] if way["frechet"] <= 1.02 * whole["frechet"]]
    able = [way for way in near if way["clip_score"] >= whole["clip_score"] - 1]
    found: results.Results = min(able, key=lambda way: float(way["forwards"]))
    return found


def _paper(told: results.Results) -> results.Results:
    found: results.Results = next(way for way in told["ways"] if way.items() >= {**PAPER, "loop": "full"}.items())
    return found


def _best(told: results.Results, whole: results.Results) -> str:
    way = best(told)
    return (
        "The least within 2% of the Frechet distance of 50 steps of DDIM, and a point of their CLIP score, is "
        f"{way['sampler']} in {way['steps']} steps, {_flags(way)}: {whole['forwards'] / way['forwards']:.1f} times "
        "fewer multiplications."
    )


def _quality(way: results.Results) -> list[str]:
    psnr = f"{way['psnr']:.1f} dB" if way["psnr"] else DASH
    return [f"{way['frechet']:.1f}", f"{way['clip_score']:.2f}", psnr]


def _flags(way: results.Results) -> str:
    flags = Loop.parse(way["loop"]).flags
    return f"`{flags}`" if flags else "every step full"
