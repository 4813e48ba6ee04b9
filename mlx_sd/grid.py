"""Pictures over all combinations of some settings: the axes, the order of the pictures and their names."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from .core.errors import InputError
from .core.suggestions import unknown
from .request import MODEL_FIELDS, SETTINGS

REPLACE = "replace"  # an axis that replaces its first value in the prompts by each
MOST = 1000  # pictures of a grid


class Axis(NamedTuple):
    """A setting and the values that it takes along the sheet."""

    name: str
    field: str | None  # of a request; None for `replace`
    texts: tuple[str, ...]  # as typed, for labels
    values: tuple[Any, ...]


class Cell(NamedTuple):
    """A picture of the grid: its place along each axis."""

    places: tuple[int, ...]
    name: str  # of its file


def field_of(name: str, where: str) -> str | None:
    """Returns the field of a request that an axis of this name changes, None for `replace`; InputError for others.

    where: what the error calls the axis.
    """
    if name == REPLACE:
        return None
    fields = {(setting.key or field).lower(): field for field, setting in SETTINGS.items() if not setting.hidden}
    fields |= {(setting.flag or "").lstrip("-"): field for field, setting in SETTINGS.items() if setting.flag}
    if name not in fields:
        raise unknown(where, name, [*fields, REPLACE])
    return fields[name]


def cells(axes: Sequence[Axis]) -> list[Cell]:
    """Returns the pictures in the order in which they are made: axes that need another model change last."""
    ranges = [range(len(axis.texts)) for axis in axes]
    numbers = {places: i for i, places in enumerate(product(*reversed(ranges)), 1)}  # as they stand on the sheet
    order = sorted(range(len(axes)), key=lambda i: -_cost(axes[i]))
    pictures = []
    for combination in product(*(ranges[i] for i in order)):
        places = tuple(combination[order.index(i)] for i in range(len(order)))
        label = "_".join(f"{axis.name}-{axis.texts[i]}" for axis, i in zip(axes, places, strict=True))
        short = re.sub(r"[^\w.+-]+", "-", label)[:100]
        pictures.append(Cell(places, f"{numbers[places[::-1]]:03d}-{short}.png"))
    return pictures


def _cost(axis: Axis) -> int:
    """Returns how much a change along an axis costs: one that needs another model most."""
    return len(MODEL_FIELDS) - MODEL_FIELDS.index(axis.field) if axis.field in MODEL_FIELDS else 0


def replaced(texts: Mapping[str, str | None], word: str, other: str) -> dict[str, str | None]:
    """Returns prompts with a word replaced by another one; InputError where it is in none of them."""
    if not any(word in (text or "") for text in texts.values()):
        raise InputError(f"{word!r} is not in the prompt, so there is nothing to replace")
    return {name: text and text.replace(word, other) for name, text in texts.items()}
