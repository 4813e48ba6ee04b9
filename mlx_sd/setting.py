"""How one field of a request is described: its flag, its help, its range and how text becomes its value."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .core.errors import InputError
from .core.suggestions import unknown

_KINDS: dict[type, tuple[type, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
}


@dataclass(frozen=True)
class Range:
    """Numbers from `minimum` to `maximum`; with `open_minimum` the minimum itself is left out, with `open_maximum`
    the maximum."""

    minimum: float = -math.inf
    maximum: float = math.inf
    open_minimum: bool = False
    open_maximum: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.minimum if self.open_minimum else value >= self.minimum
        below = value < self.maximum if self.open_maximum else value <= self.maximum
        return math.isfinite(value) and above and below

    def words(self, unit: str | None) -> str:
        """Returns the range in words, for help and error messages."""
        if self.minimum == -math.inf:
            return "a finite number"
        if self.maximum == math.inf:
            amount = f"a number of {unit} " if unit else ""
            return f"{amount}above {self.minimum:.12g}" if self.open_minimum else f"{amount}from {self.minimum:.12g}"
        if self.open_minimum:
            return f"above {self.minimum:.12g}, {'below' if self.open_maximum else 'to'} {self.maximum:.12g}"
        return f"from {self.minimum:.12g} to {self.maximum:.12g}"


@dataclass(frozen=True)
class Setting:
    """Everything that command line, metadata and error messages need to know about one field of a request."""

    help: str
    kind: type = str  # int, float, bool, str; object for values with a parser of their own
    metavar: str | None = None
    group: str = "picture"
    unit: str | None = None
    range: Range | None = None
    choices: Sequence[str] | None = None
    parse: Callable[[Any], Any] | None = None  # friendly value (3, "3:1", "0.9,0.2") -> value
    to_json: Callable[[Any], Any] = lambda value: value
    from_json: Callable[[Any], Any] | None = None  # where the value in JSON is not what `parse` takes
    key: str | None = None  # in JSON, where it is not the field's name
    flag: str | None = None  # on the command line, where it is not the field's name with dashes
    without_value: Any = None  # of a flag that may be given without a value
    repeat: bool = False  # the flag may be given several times
    hidden: bool = False  # has no flag: it is recorded and compared, not chosen
    always_recorded: bool = True  # also where it is None

    def check(self, name: str, value: Any) -> Any:
        """Returns the value as the field holds it; InputError where its type or range is wrong."""
        if value is None:
            return None
        label = name.replace("_", " ")
        if self.parse is not None:
            return self.parse(value)
        if self.kind in _KINDS:
            accepted, words = _KINDS[self.kind]
            if not isinstance(value, accepted) or (isinstance(value, bool) and self.kind is not bool):
                raise InputError(f"{label} must be {words}, not {value!r}")
            value = self.kind(value)
        if self.choices is not None and value not in self.choices:
            raise unknown(label, value, self.choices)
        if self.range is not None and value not in self.range:
            raise InputError(f"{label} must be {self.range.words(self.unit)}, not {value}")
        return value


def setting(default: Any, help: str, **description: Any) -> Any:
    """Returns a dataclass field with its default and its `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(help, **description)})


def settings_of(record: type) -> dict[str, Setting]:
    """Returns the settings of a record by the names of its fields, in order."""
    return {field.name: field.metadata["setting"] for field in dataclasses.fields(record)}
