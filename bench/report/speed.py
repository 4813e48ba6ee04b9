"""Sections of the report: from a folder of results to Markdown, or to a drawing."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError

from .. import results
from ..memory.sizes import NAMES
from ..speed.latency import OWN
from ..speed.loops import MODELS, Loop
from ..speed.operations import BETWEEN
from . import plots

SHOWN = {**NAMES, "tiny": "embedded"}
SUMMARY = ("3:0", "5:0", "tgate:10,5,1,2", "3:0/tgate:10,5,1,2")
DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ------------------------------------------------------------------------------------------------ latency


def latencies(folder: Path) -> list[results.Results]:
    """All that bench.latency measured, small models first."""
    found = [results.read(path) for path in sorted(folder.glob("latency-*.json"))]
    return sorted(found, key=lambda told: MODELS.index(told["model"]))


def latency(folder: Path) -> str:
    """Our loops: steps, loops, ideals."""
    head = ["", "loop", "full step", "least step", "speed-up", "by medians", "counted ideal", "of ideal"]
    rows = []
    for told in latencies(folder):
        for i, loop in enumerate(_of(told, OWN)):
            full, least = _kinds(told, loop)
            speeds = [f"{loop[key]:.2f}" for key in ("speedup", "speedup_by_medians", "ideal")]
            of = f"{loop['of_ideal']:.0%}" if loop["loop"] != "full" else DASH
            rows.append([_setting(told) if i == 0 else "", _flags(loop), _spread(full), _spread(least), *speeds, of])
    notes = [machine(told) for told in latencies(folder)[:1]]
    notes += [f"{_setting(told)}: {told['note']}" for told in latencies(folder) if "note" in told]
    return "\n\n".join([table(head, rows), *notes])


def summary(folder: Path) -> str:
    """A row for each measurement, a column for each of a few loops: speed-ups by medians, and of what ideal."""
    found = [(told, {loop["loop"]: loop for loop in _of(told, OWN)}) for told in latencies(folder)]
    shown = [name for name in SUMMARY if any(name in loops for _, loops in found)]

    def cell(loop: results.Results | None) -> str:
        return f"{loop['speedup_by_medians']:.2f} of {loop['ideal']:.2f}" if loop else DASH

    rows = [
        [_setting(told), _spread(_kinds(told, loops["full"])[0]), *(cell(loops.get(name)) for name in shown)]
        for told, loops in found
    ]
    return table(["", "full step", *(_flags({"loop": name}) for name in shown)], rows)


def peer(folder: Path) -> str:
    """Our loops beside a peer's, step by step in turn."""
    rows = []
    for told in latencies(folder):
        if "peer" not in told:
            continue
        theirs = {loop["loop"]: loop for loop in told["loops"] if loop["by"] != OWN}
        for i, loop in enumerate(loop for loop in _of(told, OWN) if loop["loop"] in theirs):
            other = theirs[loop["loop"]]
            mine, its = (_kinds(told, one) for one in (loop, other))
            rows.append(
                [
                    f"{_setting(told)}, {other['by']} {told['peer']['diffusers']}" if i == 0 else "",
                    _flags(loop),
                    *(_spread(kind) for pair in zip(mine, its, strict=True) for kind in pair),
                    f"{loop['speedup_by_medians']:.2f}",
                    f"{other['speedup_by_medians']:.2f}",
                    f"{_median_ratio(other, loop):.2f}",
                ]
            )
    head = ["", "loop", "full step: ours", "theirs", "least step: ours", "theirs"]
    return table([*head, "speed-up: ours", "theirs", "their step / ours"], rows)


def _of(told: results.Results, by: str) -> list[results.Results]:
    return [loop for loop in told["loops"] if loop["by"] == by]


def _kinds(told: results.Results, loop: results.Results) -> tuple[results.Results, results.Results]:
    """The kinds of a loop's evaluations that cost most and least."""
    own = [k for k in told["kinds"] if k["by"] == loop["by"] and str(k["macs"]) in loop["kinds"]]
    ordered = sorted(own, key=lambda kind: int(kind["macs"]))
    return ordered[-1], ordered[0]


def _median_ratio(one: results.Results, other: results.Results) -> float:
    """Of a loop's evaluations to another's in the same rounds."""
    ratios: list[float] = [a / b for a, b in zip(one["seconds"], other["seconds"], strict=True)]
    return statistics.median(ratios)


def _spread(kind: results.Results) -> str:
    digits = 3 if kind["median"] < 1 else 2 if kind["median"] < 10 else 1
    return f"{kind['median']:.{digits}f} s ({kind['min']:.{digits}f} to {kind['max']:.{digits}f})"


def _setting(told: results.Results) -> str:
    guided = ", guided" if told["guided"] else ""
    return f"{_size(told)}, {told['steps']} steps{guided}"


def _size(told: results.Results) -> str:
    return f"{SHOWN[told['model']]}, {told['latents']} {TIMES} {told['latents']}"


def _flags(loop: results.Results) -> str:
    flags = Loop.parse(loop["loop"]).flags
    return f"`{flags}`" if flags else "every step full"


def machine(told: results.Results) -> str:
    """What it was measured on."""
    m = told["machine"]
    return f"{m['processor']}, {m['cores']} cores, {m['system']}, {m['device']}, MLX {m['mlx']}, {m['blas']}."


# ------------------------------------------------------------------------------------------------ profile


def profile(folder: Path) -> str:
    """Where the time of a full and of a cached step goes, by operation."""
    rows = []
    for told in latencies(folder):
        for i, step in enumerate(told.get("profile", ())):
            parts = step["operations"]
            seconds, macs = (sum(part[key] for part in parts.values()) for key in ("seconds", "macs"))
            cells = (
                f"{parts[op]['seconds'] / seconds:.0%} ({parts[op]['macs'] / macs:.0%})" if op in parts else DASH
                for op in ("conv2d", "linear", "attention")
            )
            other = (parts[op]["seconds"] / seconds if op in parts else 0 for op in _SMALL)
            name = SHOWN[told["model"]] if i == 0 else ""
            time = f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
            rows.append([name, step["step"], time, *cells, *(f"{share:.0%}" for share in other)])
    head = ["", "step", "time", "convolutions", "linears", "attention", *_SMALL.values()]
    return table(head, rows)


_SMALL = {"group_norm": "group norm", "silu": "SiLU", "gelu": "GELU", "layer_norm": "layer norm", BETWEEN: "between"}


def levels(folder: Path) -> Any:
    """A plot of a full step by the levels of the UNet: share of time, share of multiplications."""
    shown = [told for told in latencies(folder) if "profile" in told]
    if not shown:
        raise InputError(f"{folder}: no latency-*.json has a profile; measure one with --profile")
    figure = plots.figure(11, 2.4 * len(shown))
    for axis, told in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
        parts = told["profile"][0]["levels"]
        for k, (key, label) in enumerate((("seconds", "time"), ("macs", "multiplications"))):
            total = sum(part[key] for part in parts.values())
            places = [i + 0.4 * k for i in range(len(parts))]
            axis.bar(places, [100 * p[key] / total for p in parts.values()], 0.4, label=label, color=plots.COLOWN[k])
        axis.set_xticks([i + 0.2 for i in range(len(parts))], list(parts), rotation=60, fontsize=7)
        axis.set_ylabel("% of a full step")
        axis.set_title(_setting(told), fontweight="bold")
    figure.axes[0].legend(frameon=False)
    return figure


# ------------------------------------------------------------------------------------------------ prediction


def prediction(folder: Path) -> str:
    """What chips should take, and how wrong that may be."""
    found = results.read(folder / "prediction.json")
    models = list(dict.fromkeys(row["model"] for row in found["predictions"]))
    loops = list(dict.fromkeys(row["loop"] for row in found["predictions"]))
    rows = []
    for chip in dict.fromkeys(row["chip"] for row in found["predictions"]):
        own = {(row["model"], row["loop"]): row for row in found["predictions"] if row["chip"] == chip}
        cells = (" / ".join(f"{own[model, loop]['seconds']:.0f}" for loop in loops) for model in models)
        rows.append([f"prediction: {chip}", *(f"{cell} s" for cell in cells)])
    error = found["error"]
    flags = ", ".join(_flags(row) for row in found["predictions"][: len(loops)])
    text = (
        f"Predictions, not measurements: a guided picture of {found['steps']} steps in float16, without text encoder "
        f"and decoder: {flags}. Of {len(found['published'])} published times, one left out of the fit is missed by "
        f"{error['mean']:.0%} on average and {error['worst']:+.0%} at worst."
    )
    return f"{text}\n\n{table(['', *(SHOWN[model] for model in models)], rows)}"


def published(folder: Path) -> str:
    """The published times that predictions are fitted to, and how each is missed when it is left out."""
    found = results.read(folder / "prediction.json")
    rows = [
        [
            told["source"],
            f"{told['chip']}, {told['cores']} cores",
            f"{_size(told)}, {told['pictures']} at once",
            f"{told['seconds']:.2f} s",
            f"{told['seconds'] * (1 + told['error_left_out']):.2f} s ({told['error_left_out']:+.0%})",
        ]
        for told in found["published"]
    ]
    return table(["source", "chip", "step", "published", "prediction from the others"], rows)
