"""A section and a plot about simulated clusters: from a folder of results to Markdown, or to a figure."""

from pathlib import Path
from typing import Any

from .. import results
from ..markdown import table
from ..models import NAMES
from ..speed.loops import Loop
from . import plots
from .cells import flags

FILE = "cluster.json"
_SIZES = (4, 16, 64)  # of the clusters in the table
_SHOWN = "3:0"  # the loop in the plot of batches
# How a cluster works in the results -> its line and its name
_KINDS = {
    "stealing": ("-", "work stealing"),
    "dealing": ("--", "dealt out"),
    "pairs": (":", "pairs share pictures"),
}


def caption(values: results.Results) -> str:
    """Returns what a simulation assumes, in sentences."""
    a = values["assumptions"]
    networks = "; ".join(
        f"{network['title']}, {1000 * network['latency']:g} ms a message and {network['bandwidth'] / 1e6:g} MB/s"
        for network in a["networks"].values()
    )
    steps = max(row["evaluations"] for row in values["shared"])
    return (
        f"A simulation, not a measurement. It assumes: {a['jobs']} guided pictures of {steps} steps in float16, whose "
        f"evaluations take what `python -m bench predict` predicts, without text encoder and decoder; lengths of jobs "
        f"that differ by {a['spread']:.0%}; {a['start']:g} s until a Mac begins; {a['messages']} messages for each "
        f"exchange, which wait for each other; {networks}. The table has times as fast as "
        "the first Mac alone and, of one picture, as the faster of the two."
    )


def section(folder: Path) -> str:
    """Returns the table of simulated clusters, after what it assumes."""
    values = results.read(folder / FILE)
    networks = values["assumptions"]["networks"]
    sizes = [size for size in _SIZES if size in values["assumptions"]["macs"]]
    rows = []
    for cluster, model, loop in dict.fromkeys(map(_case, values["batches"])):
        batches = {row["macs"]: row for row in values["batches"] if _case(row) == (cluster, model, loop)}
        shared = {row["network"]: row for row in values["shared"] if _case(row) == (cluster, model, loop)}
        rows.append(
            [
                f"simulation: {cluster}, {NAMES.get(model, model)}",
                flags(loop),
                *(f"{batches[size]['stealing']['speedup']:.1f}" for size in sizes),
                *(f"{batches[size]['dealing']['speedup']:.1f}" for size in sizes[-1:]),
                *(f"{shared[name]['speedup']:.2f}" for name in networks),
            ]
        )
    head = ["", "loop", *(f"{size} Macs" for size in sizes), *(f"{size}, dealt out" for size in sizes[-1:])]
    head += [f"one picture, {network['title']}" for network in networks.values()]
    return f"{caption(values)}\n\n{table(head, rows)}"


def figure(folder: Path) -> Any:
    """Plots batches against the number of Macs, and pictures that two Macs share against the connection."""
    values = results.read(folder / FILE)
    drawing = plots.figure(11, 4.6)
    left, right = drawing.subplots(1, 2, width_ratios=(1.1, 1))
    _draw_batches(left, values)
    _draw_shared(right, values)
    drawing.suptitle("A simulation, not a measurement: the caption lists what it assumes", fontweight="bold")
    return drawing


def _draw_batches(axis: Any, values: results.Results) -> None:
    """Lines of one model and loop: how much of the Macs' speed each cluster has, in the three ways."""
    sizes = values["assumptions"]["macs"]
    model = values["batches"][0]["model"]
    loops = [row["loop"] for row in values["batches"]]
    loop = _SHOWN if _SHOWN in loops else loops[0]
    clusters = dict.fromkeys(row["cluster"] for row in values["batches"])
    for cluster, colour in zip(clusters, plots.COLOURS, strict=False):
        rows = [row for row in values["batches"] if _case(row) == (cluster, model, loop)]
        for kind, (line, title) in _KINDS.items():
            shares = [100 * row[kind]["speedup"] / row["ideal"] for row in rows]
            axis.plot(sizes, shares, line, color=colour, marker="o", markersize=3, label=f"{cluster}, {title}")
    axis.set_xscale("log", base=2)
    ticks = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= max(sizes)]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_ylim(0, 104)
    axis.set_xlabel("Macs")
    axis.set_ylabel("% of the speed of all Macs together")
    axis.set_title(f"{values['assumptions']['jobs']} pictures, {NAMES.get(model, model)}, {Loop.parse(loop).flags}")
    axis.legend(frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(1, 0.44))


def _draw_shared(axis: Any, values: results.Results) -> None:
    """Bars of the first cluster's pictures, one for each connection."""
    cluster = values["shared"][0]["cluster"]
    rows = [row for row in values["shared"] if row["cluster"] == cluster]
    cases = list(dict.fromkeys(map(_case, rows)))
    networks = values["assumptions"]["networks"]
    width = 0.8 / len(networks)
    for k, (name, network) in enumerate(networks.items()):
        speedups = [row["speedup"] for row in rows if row["network"] == name]
        places = [i + k * width for i in range(len(cases))]
        axis.bar(places, speedups, width, label=network["title"], color=plots.COLOURS[k + 2])
    axis.axhline(1, color="0.4", linewidth=1)
    axis.axhline(2, color="0.7", linewidth=1, linestyle=":")
    texts = [(NAMES.get(model, model), Loop.parse(loop).flags or "full") for _, model, loop in cases]
    names = [f"{model}\n{text.replace(' ', chr(10))}" for model, text in texts]
    middle = width * (len(networks) - 1) / 2
    axis.set_xticks([i + middle for i in range(len(cases))], names, fontsize=6.5)
    axis.set_title(f"one picture on two Macs, {cluster}")
    axis.set_ylabel("times as fast as one")
    axis.legend(frameon=False, fontsize=8, ncols=len(networks), loc="upper center")
    axis.set_ylim(0, 2.35)


def _case(row: results.Results) -> tuple[str, str, str]:
    return row["cluster"], row["model"], row["loop"]
