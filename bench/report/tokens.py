"""Sections and a plot about models of tokens: the results of bench tokens."""

from pathlib import Path
from typing import Any

from mlx_sd.discrete import calls

from .. import results
from ..markdown import DASH, table
from . import plots
from .cells import machine

RESULTS = "tokens-tiny-cpu.json"
_MARKERS = dict(zip(calls.NAMES, "osD^vP", strict=True))
_COLOURS = dict(zip(calls.NAMES, plots.COLOURS, strict=False))
_ABOVE: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 7, "color": "0.35"}


def samplers(folder: Path) -> str:
    """Returns the table of all samplers of tokens, by calls of the network."""
    values = results.read(folder / RESULTS)
    head = ["sampler", "schedule", "steps", "calls", "captions that are true", "Frechet distance", "seconds"]
    rows = [
        [
            _named(point),
            point["schedule"] or DASH,
            str(point["steps"] or DASH),
            _calls(point),
            _truth(point),
            f"{point['frechet']:.1f}",
            f"{point['seconds']:.2f}",
        ]
        for point in sorted(values["points"], key=lambda point: (float(point["calls"]), -int(point["full_calls"])))
    ]
    through, bits = values["through_tokens"], values["bits"]
    note = (
        f"{values['images']} pictures a row, of the same captions and seeds, with guidance {values['guidance']:g}; in "
        "brackets the 95% interval. Calls are the mean; a guided call evaluates the network for both prompts. The true "
        f"pictures of these captions are at {values['true_pictures']:.1f}; after they became tokens and pictures "
        f"again, {_truth(through)} are still true, at {through['frechet']:.1f}. Their tokens take at most "
        f"{bits['per_token']:.2f} bits each, of {bits['codes']:.0f} for the codebook, by the bound. {machine(values)}"
    )
    return f"{table(head, rows, left=2)}\n\n{note}"


def beside_latents(folder: Path) -> str:
    """Returns the table of the model of tokens beside a model of latents, at about equal multiplications."""
    values = results.read(folder / RESULTS)
    latents = values["continuous"]
    rows = []
    for other in latents["points"]:
        point = min(_default(values), key=lambda point: abs(int(point["macs"]) - int(other["macs"])))
        rows += [_cost_row(f"tokens, `{calls.MASKGIT}`", point), _cost_row(f"latents, `{other['sampler']}`", other)]
    head = ["", "calls", "multiplications", "captions that are true", "Frechet distance", "seconds"]
    note = (
        f"Their pictures have {values['size']} and {latents['size']} pixels along each side, guided by "
        f"{values['guidance']:g} and {latents['guidance']:g}. Multiplications are the UNet's in a guided picture."
    )
    return f"{table(head, rows, left=1)}\n\n{note}"


def _cost_row(name: str, point: results.Results) -> list[str]:
    macs = f"{point['macs'] / 1e9:.1f} G"
    return [name, _calls(point), macs, _truth(point), f"{point['frechet']:.1f}", f"{point['seconds']:.2f}"]


def _default(values: results.Results) -> list[results.Results]:
    """Returns the points of the default sampler without cached calls."""
    return [point for point in values["points"] if point["sampler"] == calls.MASKGIT and not point["deepcache"]]


def _named(point: results.Results) -> str:
    cached = f", `--deepcache {point['deepcache']}`" if point["deepcache"] else ""
    return f"`{point['sampler']}`{cached}"


def _calls(point: results.Results) -> str:
    cached = f" ({point['full_calls']:.0f} full)" if point["full_calls"] < point["calls"] else ""
    return f"{point['calls']:.0f}{cached}"


def _truth(point: results.Results) -> str:
    share = point["truth"]
    return f"{share['percent']:.0f}% ({share['low']:.0f} to {share['high']:.0f})"


def by_calls(folder: Path) -> Any:
    """Plots truth and Frechet distance of every sampler of tokens against calls of the network."""
    values = results.read(folder / RESULTS)
    figure = plots.figure(9, 4.2)
    panels = figure.subplots(1, 2)
    for axes, title in zip(panels, ("captions that are true, %", "Fréchet distance (less is better)"), strict=True):
        lines: dict[tuple[str, str | None], list[results.Results]] = {}
        for point in values["points"]:
            if not point["deepcache"]:
                lines.setdefault((point["sampler"], point["schedule"]), []).append(point)
        for (sampler, schedule), line in lines.items():
            of_beta = bool(schedule and schedule.startswith("beta"))
            style: dict[str, Any] = {"marker": _MARKERS[sampler], "color": _COLOURS[sampler], "linewidth": 1}
            style |= {"markersize": 5, "linestyle": "--" if of_beta else "-"}
            style |= {"markerfacecolor": "none" if of_beta else None}
            ordered = sorted(line, key=lambda point: float(point["calls"]))
            heights = [point["truth"]["percent"] if axes is panels[0] else point["frechet"] for point in ordered]
            label = f"{sampler}, {schedule}" if of_beta else sampler
            axes.plot([point["calls"] for point in ordered], heights, label=label, **style)
        through = values["through_tokens"]
        level = through["truth"]["percent"] if axes is panels[0] else through["frechet"]
        axes.axhline(level, color="0.4", linewidth=1, linestyle=":", zorder=0)
        axes.text(0.98, level, "true pictures as tokens", transform=axes.get_yaxis_transform(), **_ABOVE)
        axes.set_xscale("log")
        axes.set_xticks(ticks := [4, 8, 12, 20, 50, 100, 250, 1000], [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("calls of the network")
        axes.set_title(title)
        axes.grid(color="0.94", linewidth=0.6)
    panels[1].legend(frameon=False, fontsize=8)
    return figure
