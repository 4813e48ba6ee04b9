"""Sections about truth: the share of captions that come true on the embedded checkpoint, by rules on pixels."""

from pathlib import Path
from typing import Any

from .. import results
from ..markdown import DASH, table
from .cells import machine, with_interval

RULES = "truth-rules.json"
DEFAULT = "truth-tiny-cpu.json"
PAPER = "50 steps of DDIM"
OTHERS = {  # settings -> results; those that were not measured have no row
    PAPER: "truth-tiny-ddim-cpu.json",
    "`--sampler dpmpp_2m`": "truth-tiny-dpmpp_2m-cpu.json",
    "`--speed fast`": "truth-tiny-fast-cpu.json",
    "`--speed fastest`": "truth-tiny-fastest-cpu.json",
    "`--deepcache 3`": "truth-tiny-deepcache-cpu.json",
    "`--quantize 8`": "truth-tiny-8bit-cpu.json",
}
_GROUPS = ("captions", "kind", "color", "side", "sky", "ground", "sun and moon")


def parts(folder: Path) -> str:
    """Returns the table of what captions name, and how often it comes true, at the default settings."""
    values = results.read(folder / DEFAULT)
    cells = [
        [group, name, str(share["count"]), with_interval(share)]
        for group in _GROUPS
        for name, share in values["shares"].get(group, {}).items()
    ]
    note = f"Between brackets Wilson's 95% interval. {machine(values)}"
    return f"{table(['', 'what', 'captions', 'true'], cells)}\n\n{note}"


def settings(folder: Path) -> str:
    """Returns the table of settings, each beside the default settings in pairs: same captions and seeds."""
    default = results.read(folder / DEFAULT)
    head = ["settings", "captions", "true", "one thing", "two things", "true by default alone", "true here alone"]
    cells = [["the default", *_shares(default), DASH, DASH]]
    for name, file in OTHERS.items():
        if (folder / file).exists():
            values = results.read(folder / file)
            pairs = list(zip(default["true"], values["true"], strict=False))
            lost, won = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
            cells.append([name, *_shares(values), str(lost), str(won)])
    return table(head, cells)


def percent(folder: Path, name: str) -> float:
    """Returns the share that come true with settings of OTHERS, else by default, of the captions that PAPER made."""
    count = results.read(folder / OTHERS[PAPER])["captions"]
    true: list[int] = results.read(folder / OTHERS.get(name, DEFAULT))["true"]
    return 100 * sum(true[:count]) / int(count)


def rules(folder: Path) -> str:
    """Returns one paragraph: how often the rules are right about true pictures, and of changed captions."""
    values = results.read(folder / RULES)
    right = values["shares"]["captions"]["all"]
    wrong = values["changed_captions"].values()
    accepted, count = sum(part["true"] for part in wrong), sum(part["count"] for part in wrong)
    return (
        f"Of true pictures of {right['count']} captions, {right['percent']:.1f}% are called true; of true pictures of "
        f"captions in which one part was changed, {100 * accepted / count:.1f}%."
    )


def _shares(values: results.Results) -> list[str]:
    captions: dict[str, Any] = values["shares"]["captions"]
    return [str(values["captions"]), *(with_interval(captions[name]) for name in ("all", "one thing", "two things"))]
