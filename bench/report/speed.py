"""Sections and a plot about speed: from a folder of results to Markdown, or to a figure."""

import statistics
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError

from .. import results
from ..markdown import DASH, TIMES, table
from ..models import NAMES
from ..speed.latency import OWN
from ..speed.loops import MODELS
from ..speed.operations import BETWEEN
from . import plots
from .cells import flags, machine

LABELS = {**NAMES, "tiny": "embedded"}
SUMMARY = ("3:0", "5:0", "tgate:10,5,1,2", "3:0/tgate:10,5,1,2")  # loops of the summary's columns


# ------------------------------------------------------------------------------------------------ latency


def latencies(folder: Path) -> list[results.Results]:
    """Reads all results of the measurement latency, small models first."""
    measurements = [results.read(path) for path in sorted(folder.glob("latency-*.json"))]
    return sorted(measurements, key=lambda values: MODELS.index(values["model"]))


def latency(folder: Path) -> str:
    """Returns the table of this project's loops: steps, speed-ups, ideals."""
    head = ["", "loop", "full step", "least step", "speed-up", "by medians", "counted ideal", "of ideal"]
    rows = []
    for values in latencies(folder):
        for i, loop in enumerate(_loops_by(values, OWN)):
            full, least = _kinds(values, loop)
            speeds = [f"{loop[key]:.2f}" for key in ("speedup", "speedup_by_medians", "ideal")]
            share = f"{loop['of_ideal']:.0%}" if loop["loop"] != "full" else DASH
            steps = [_spread(full), _spread(least)]
            rows.append([_setting(values) if i == 0 else "", flags(loop["loop"]), *steps, *speeds, share])
    notes = [machine(values) for values in latencies(folder)[:1]]
    notes += [f"{_setting(values)}: {values['note']}" for values in latencies(folder) if "note" in values]
    return "\n\n".join([table(head, rows), *notes])


def summary(folder: Path) -> str:
    """Returns a table of a few loops: a row for each measurement, speed-ups by medians and their ideals."""
    measurements = [(values, {loop["loop"]: loop for loop in _loops_by(values, OWN)}) for values in latencies(folder)]
    columns = [name for name in SUMMARY if any(name in loops for _, loops in measurements)]
    rows = [
        [
            _setting(values),
            _spread(_kinds(values, loops["full"])[0]),
            *(_speedup_of_ideal(loops.get(name)) for name in columns),
        ]
        for values, loops in measurements
    ]
    return table(["", "full step", *map(flags, columns)], rows)


def _speedup_of_ideal(loop: results.Results | None) -> str:
    return f"{loop['speedup_by_medians']:.2f} of {loop['ideal']:.2f}" if loop else DASH


def peer(folder: Path) -> str:
    """Returns the table of this project's loops beside those of diffusers, run in turn step by step."""
    rows = []
    for values in latencies(folder):
        if "peer" not in values:
            continue
        baselines = {loop["loop"]: loop for loop in values["loops"] if loop["by"] != OWN}
        for i, loop in enumerate(loop for loop in _loops_by(values, OWN) if loop["loop"] in baselines):
            baseline = baselines[loop["loop"]]
            kinds = zip(_kinds(values, loop), _kinds(values, baseline), strict=True)
            rows.append(
                [
                    f"{_setting(values)}, {baseline['by']} {values['peer']['diffusers']}" if i == 0 else "",
                    flags(loop["loop"]),
                    *(_spread(kind) for pair in kinds for kind in pair),
                    f"{loop['speedup_by_medians']:.2f}",
                    f"{baseline['speedup_by_medians']:.2f}",
                    f"{_median_ratio(baseline, loop):.2f}",
                ]
            )
    head = ["", "loop", "full step: ours", "theirs", "least step: ours", "theirs"]
    return table([*head, "speed-up: ours", "theirs", "their step / ours"], rows)


def _loops_by(values: results.Results, package: str) -> list[results.Results]:
    return [loop for loop in values["loops"] if loop["by"] == package]


def _kinds(values: results.Results, loop: results.Results) -> tuple[results.Results, results.Results]:
    """The kinds of a loop's evaluations that cost most and least."""
    kinds = [k for k in values["kinds"] if k["by"] == loop["by"] and str(k["macs"]) in loop["kinds"]]
    ordered = sorted(kinds, key=lambda kind: int(kind["macs"]))
    return ordered[-1], ordered[0]


def _median_ratio(loop: results.Results, reference: results.Results) -> float:
    """The median ratio of seconds of two loops' evaluations in the same rounds."""
    ratios: list[float] = [a / b for a, b in zip(loop["seconds"], reference["seconds"], strict=True)]
    return statistics.median(ratios)


def _spread(kind: results.Results) -> str:
    digits = 3 if kind["median"] < 1 else 2 if kind["median"] < 10 else 1
    return f"{kind['median']:.{digits}f} s ({kind['min']:.{digits}f} to {kind['max']:.{digits}f})"


def _setting(values: results.Results) -> str:
    guided = ", guided" if values["guided"] else ""
    control = ", with a ControlNet" if values.get("control") else ""
    return f"{_size(values)}, {values['steps']} steps{guided}{control}"


def _size(values: results.Results) -> str:
    return f"{LABELS[values['model']]}, {values['latents']} {TIMES} {values['latents']}"


# ------------------------------------------------------------------------------------------------ profile

_SMALL = {"group_norm": "group norm", "silu": "SiLU", "gelu": "GELU", "layer_norm": "layer norm", BETWEEN: "between"}


def profile(folder: Path) -> str:
    """Returns the table of the shares of time and multiplications of a full and a cached step, by operation."""
    rows = []
    for values in latencies(folder):
        for i, step in enumerate(values.get("profile", ())):
            parts = step["operations"]
            seconds, macs = (sum(part[key] for part in parts.values()) for key in ("seconds", "macs"))
            cells = (
                f"{parts[op]['seconds'] / seconds:.0%} ({parts[op]['macs'] / macs:.0%})" if op in parts else DASH
                for op in ("conv2d", "linear", "attention")
            )
            small = (parts[op]["seconds"] / seconds if op in parts else 0 for op in _SMALL)
            name = LABELS[values["model"]] if i == 0 else ""
            time = f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
            rows.append([name, step["step"], time, *cells, *(f"{share:.0%}" for share in small)])
    head = ["", "step", "time", "convolutions", "linears", "attention", *_SMALL.values()]
    return table(head, rows)


def levels(folder: Path) -> Any:
    """Plots a full step by the blocks of the UNet: share of time, share of multiplications."""
    profiled = [values for values in latencies(folder) if "profile" in values]
    if not profiled:
        raise InputError(f"{folder}: no latency-*.json has a profile; measure one with --profile")
    figure = plots.figure(11, 2.4 * len(profiled))
    for axis, values in zip(figure.subplots(len(profiled), squeeze=False)[:, 0], profiled, strict=True):
        parts = values["profile"][0]["levels"]
        for k, (key, label) in enumerate((("seconds", "time"), ("macs", "multiplications"))):
            total = sum(part[key] for part in parts.values())
            places = [i + 0.4 * k for i in range(len(parts))]
            axis.bar(places, [100 * p[key] / total for p in parts.values()], 0.4, label=label, color=plots.COLOURS[k])
        axis.set_xticks([i + 0.2 for i in range(len(parts))], list(parts), rotation=60, fontsize=7)
        axis.set_ylabel("% of a full step")
        axis.set_title(_setting(values), fontweight="bold")
    figure.axes[0].legend(frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------ prediction


def prediction(folder: Path) -> str:
    """Returns the table of predicted seconds of chips, after a text about their error."""
    values = results.read(folder / "prediction.json")
    models = list(dict.fromkeys(row["model"] for row in values["predictions"]))
    loops = list(dict.fromkeys(row["loop"] for row in values["predictions"]))
    rows = []
    for chip in dict.fromkeys(row["chip"] for row in values["predictions"]):
        of_chip = {(row["model"], row["loop"]): row for row in values["predictions"] if row["chip"] == chip}
        cells = (" / ".join(f"{of_chip[model, loop]['seconds']:.0f}" for loop in loops) for model in models)
        rows.append([f"prediction: {chip}", *(f"{cell} s" for cell in cells)])
    error = values["error"]
    text = (
        f"Predictions, not measurements: a guided picture of {values['steps']} steps in float16, without text encoder "
        f"and decoder: {', '.join(map(flags, loops))}. Of {len(values['published'])} published times, one left out of "
        f"the fit is missed by {error['mean']:.0%} on average and {error['worst']:+.0%} at worst."
    )
    return f"{text}\n\n{table(['', *(LABELS[model] for model in models)], rows)}"


def published(folder: Path) -> str:
    """Returns the table of published times, and the prediction of each from all the others."""
    points = results.read(folder / "prediction.json")["published"]
    rows = [
        [
            point["source"],
            f"{point['chip']}, {point['cores']} cores",
            f"{_size(point)}, {point['pictures']} at once",
            f"{point['seconds']:.2f} s",
            f"{point['seconds'] * (1 + point['error_left_out']):.2f} s ({point['error_left_out']:+.0%})",
        ]
        for point in points
    ]
    return table(["source", "chip", "step", "published", "prediction from the others"], rows)
