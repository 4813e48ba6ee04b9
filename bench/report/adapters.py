"""The table of the adapters for the embedded checkpoint: what each changes, by its measure."""

from pathlib import Path
from typing import Any

from .. import results
from ..adapters.drawing import WORD
from ..adapters.subject import WITH, WITHOUT
from ..markdown import table
from .cells import machine, with_interval

FILE = "adapters-tiny-cpu.json"
_MEASURES = {  # (adapter, figure) -> what it is
    ("evening", "sunset"): "skies that are the sunset's, of captions that name another",
    ("evening", "things"): "things that are as said",
    (WORD.name, "things"): f"things that are {WORD.name}, of captions that say so",
    ("edges", "edges"): "overlap of the edges with those shown",
    ("four-steps", "truth"): "captions that come true in four steps; without: guided, DPM++ 2M",
    ("four-steps", "frechet"): "Frechet distance in four steps, of two sets of pictures",
}


def section(folder: Path) -> str:
    """Returns the table of the adapters, each with it and without it."""
    values = results.read(folder / FILE)
    head = ["adapter", "bytes", "training", "measured", "captions", "with it", "without it"]
    cells = []
    for entry in values["adapters"]:
        cost = f"{entry['steps']} steps, {entry['training_seconds'] / 60:.0f} minutes"
        first = [f"`tiny/{entry['adapter']}`", f"{entry['bytes']:,}", cost]
        for name, figures in entry["figures"].items():
            shown = [_figure(figures[WITH]), _figure(figures[WITHOUT])]
            cells.append([*first, _MEASURES[entry["adapter"], name], str(entry["captions"]), *shown])
            first = ["", "", ""]
    note = "Between brackets the 95% interval; of the Frechet distances the two numbers."
    return f"{table(head, cells)}\n\n{note} {machine(values)}"


def _figure(figure: dict[str, Any]) -> str:
    if "percent" in figure:
        return with_interval(figure)
    return f"{figure['median']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"
