"""--grid: pictures over all combinations of some settings, and one sheet of them with labels."""

import argparse
import csv
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import sheet
from ..core.errors import InputError
from ..grid import MOST, Axis, Cell, cells, field_of, replaced
from ..request import SETTINGS, Request
from .prompt_list import Template

EXAMPLE = '"steps=10,20;sampler=euler,dpmpp_2m"'
_NONE = ("none", "off")
_RANGE = re.compile(
    r"\s*(?P<first>[-+]?\d+(?:\.\d+)?)\s*-\s*(?P<last>[-+]?\d+(?:\.\d+)?)\s*"
    r"(?:\(\s*(?P<step>[-+]?\d+(?:\.\d+)?)\s*\)|\[\s*(?P<count>\d+)\s*\])?\s*"
)


class Grid(NamedTuple):
    """The axes of a sheet: the first goes across, the second down, and each combination of the others is a block."""

    axes: tuple[Axis, ...]
    sheet: Path

    @property
    def folder(self) -> Path:
        """Returns the folder of the single pictures."""
        return self.sheet.with_suffix("")

    @property
    def cells(self) -> list[Cell]:
        """Returns the pictures in the order in which they are made: axes that need another model change last."""
        return cells(self.axes)


def of(arguments: argparse.Namespace, templates: Sequence[Template]) -> tuple[Grid, list[Template]]:
    """Returns the grid that a command line asks for, and a template for each of its pictures.

    InputError where the axes make no sense, and where there is more than one prompt or picture of each.
    """
    if len(templates) > 1 or templates[0].pictures > 1:
        raise InputError("--grid makes one picture of one prompt in each cell; use axes: seed=1,2,3 or prompt=...")
    path = Path(arguments.output or "grid.png")
    if path.suffix.lower() != ".png" or "{" in str(path):
        raise InputError(f"--output {arguments.output}: with --grid it is the sheet, a .png file")
    grid = Grid(parse(arguments.grid), path)
    (template,) = templates
    return grid, [
        template._replace(request=_request(template.request, grid.axes, cell.places), output=cell.name)
        for cell in grid.cells
    ]


def _request(request: Request, axes: Sequence[Axis], places: Sequence[int]) -> Request:
    """Returns the request of a cell; InputError names the axis whose value makes no sense."""
    for axis, place in zip(axes, places, strict=True):
        try:
            if axis.field is None:
                texts = {name: getattr(request, name) for name in ("prompt", "negative")}
                request = request.with_values(**replaced(texts, axis.values[0], axis.values[place]))
            else:
                request = request.with_values(**{axis.field: axis.values[place]})
        except InputError as error:
            raise InputError(f"--grid {axis.name}={axis.texts[place]}: {error}") from None
    return request


def check_replaceable(grid: Grid, overwrite: bool) -> None:
    """Raises InputError where the sheet would replace a file that is no sheet."""
    if not overwrite and grid.sheet.exists() and not sheet.is_sheet(grid.sheet):
        raise InputError(
            f"{grid.sheet} exists and is no sheet of --grid; choose another --output, or --overwrite replaces it"
        )


def parse(text: str) -> tuple[Axis, ...]:
    """Reads axes such as "steps=10,20;sampler=euler,dpmpp_2m"; values with a comma stand in double quotes.

    Numbers may be ranges: 1-5, 1-9 (+2) with a step, 0-1 [5] with a count. InputError for what cannot be read.
    """
    axes: list[Axis] = []
    for part in _split(text, ";"):
        name, equals, values = part.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or not values.strip():
            raise InputError(f"--grid takes settings with values, for example {EXAMPLE}, not {part.strip()!r}")
        if name in (axis.name for axis in axes):
            raise InputError(f"--grid has {name} twice")
        axes.append(_axis(name, values))
    if not axes:
        raise InputError(f"--grid takes settings with values, for example {EXAMPLE}")
    if (count := math.prod(len(axis.texts) for axis in axes)) > MOST:
        raise InputError(f"--grid {text}: {count} pictures are more than {MOST}; leave out some values")
    return tuple(axes)


def _axis(name: str, text: str) -> Axis:
    texts = _split(text, ",")
    field = field_of(name, "axis of --grid")
    if field is None:
        return Axis(name, None, tuple(texts), tuple(texts))
    kind = SETTINGS[field].kind
    if kind in (int, float):
        texts = [expanded for item in texts for expanded in _range(item, kind)]
    return Axis(name, field, tuple(texts), tuple(_value(name, field, item) for item in texts))


def _value(name: str, field: str, text: str) -> Any:
    """Returns the value of a setting that a text stands for; none and off are the default."""
    setting = SETTINGS[field]
    if text.lower() in _NONE:
        return () if setting.repeat else None
    try:
        if setting.kind is bool:
            return {"true": True, "on": True, "yes": True, "false": False, "no": False}[text.lower()]
        return setting.kind(text) if setting.kind in (int, float) else [text] if setting.repeat else text
    except (ValueError, KeyError):
        raise InputError(f"--grid {name}={text}: that is no value of {name}") from None


def _range(text: str, kind: type) -> Iterator[str]:
    """Yields the numbers of a range, or the text itself."""
    match = _RANGE.fullmatch(text)
    if match is None:
        yield text
        return
    first, last = float(match["first"]), float(match["last"])
    if match["count"]:
        count = int(match["count"])
        numbers = [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
    else:
        step = float(match["step"] or (1 if last >= first else -1))
        if step == 0 or (last - first) / step < 0:
            raise InputError(f"--grid: the range {text.strip()} never ends; turn its step round")
        numbers = [first + step * i for i in range(min(int((last - first) / step + 1e-9), MOST) + 1)]
    yield from (str(round(number)) if kind is int else f"{number:.6g}" for number in numbers)


def _split(text: str, separator: str) -> list[str]:
    """Returns the parts of a text between separators that stand outside of double quotes."""
    keeps_quotes = separator == ";"
    if keeps_quotes:
        parts = re.findall(r'(?:"[^"]*"|[^;"])+', text)
        return [part for part in parts if part.strip()]
    try:
        (row,) = csv.reader([text], delimiter=separator, skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise InputError(f"--grid {text}: {error}") from None
    return [item.strip() for item in row]
