"""Sections and a plot about models of tokens: the results of bench tokens."""

from pathlib import Path
from typing import Any

from mlx_sd.discrete import calls, schedules

from .. import results
from ..markdown import DASH, table
from . import plots
from .cells import machine

FILE = "tokens-tiny-cpu.json"
_STEPS, _TOKENS = (20, 50, 200, 1000), 256
_MARKERS = dict(zip(calls.NAMES, "osD^vP", strict=True))
_COLOURS = dict(zip(calls.NAMES, plots.COLOURS, strict=False))
_ABOVE: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 7, "color": "0.35"}


def samplers(folder: Path) -> str:
    """Returns the table of all samplers of tokens, by calls of the network."""
    values = results.read(folder / FILE)
    head = ["sampler", "schedule", "steps", "calls", "captions that are true", "Frechet distance"]
    rows = [
        [
            _named(point),
            point["schedule"] or DASH,
            str(point["steps"] or DASH),
            _calls(point),
            _truth(point),
            f"{point['frechet']:.1f}",
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


def expected_calls(folder: Path) -> str:
    """Returns the table of how often DNDM calls its network on average, by steps and schedule; from no results."""
    rows = [[f"`{name}`", *(f"{_expected(name, steps):.1f}" for steps in _STEPS)] for name in schedules.USUAL]
    return table(["schedule", *(f"T = {steps}" for steps in _STEPS)], rows, left=1)


def _expected(schedule: str, steps: int) -> float:
    """Returns the mean number of different steps at which a picture's tokens change."""
    alphas = schedules.alphas(schedule, steps)
    return float((1 - (1 - alphas[:-1] + alphas[1:]) ** _TOKENS).sum())


def beside_latents(folder: Path) -> str:
    """Returns the table of the model of tokens beside a model of latents, at about equal multiplications."""
    values = results.read(folder / FILE)
    latents = values["continuous"]
    rows = []
    for other in latents["points"]:
        point = min(_default(values), key=lambda point: abs(int(point["macs"]) - int(other["macs"])))
        rows.append(_cost_row(f"tokens, `{calls.MASKGIT}`", point, values["call_seconds"]))
        rows.append(_cost_row(f"latents, `{other['sampler']}`", other, latents["call_seconds"]))
    head = ["", "calls", "multiplications", "captions that are true", "Frechet distance", "seconds"]
    note = (
        f"Their pictures have {values['size']} and {latents['size']} pixels along each side, guided by "
        f"{values['guidance']:g} and {latents['guidance']:g}. Multiplications are the UNet's in a guided picture; "
        "seconds are calls times the median of a call, of both models in turn (least to greatest)."
    )
    return f"{table(head, rows, left=1)}\n\n{note}"


def _cost_row(name: str, point: results.Results, of_call: dict[str, float]) -> list[str]:
    macs = f"{point['macs'] / 1e9:.1f} G"
    median, low, high = (point["calls"] * of_call[key] for key in ("median", "min", "max"))
    seconds = f"{median:.2f} ({low:.2f} to {high:.2f})"
    return [name, _calls(point), macs, _truth(point), f"{point['frechet']:.1f}", seconds]


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
    values = results.read(folder / FILE)
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
