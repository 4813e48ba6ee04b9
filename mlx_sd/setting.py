"""How one field of a request is described: its flag, its help, its range and how text becomes its value."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .core.errors import InputError
from .core.suggestions import did_you_mean, unknown

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

    @property
    def trivial(self) -> bool:
        """Returns whether the range says no more than that numbers are finite, or counted from 0 or 1."""
        return self.maximum == math.inf and (self.minimum, self.open_minimum) in (
            (-math.inf, False),
            (0, False),
            (1, False),
        )

    def words(self, unit: str | None) -> str:
        """Returns the range in words, for help and error messages."""
        if self.minimum == -math.inf:
            return "a finite number"
        if self.maximum == math.inf:
            amount = f"a number of {unit} " if unit else ""
            lowest = f"{self.minimum:.12g}"
            return f"{amount}above {lowest}" if self.open_minimum else f"{amount}from {lowest}{'' if unit else ' up'}"
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
    # How other tools write it, without dashes: names of the same meaning, separated by spaces; names whose value is
    # said in other words here; and names of another meaning, with the way out, where {value} is theirs.
    aliases: str = ""
    conversions: Mapping[str, Callable[[str], Sequence[str]]] = dataclasses.field(default_factory=dict)
    false_friends: Mapping[str, str] = dataclasses.field(default_factory=dict)
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)  # values, in lower case -> ours
    empty: bool = False  # text may be empty
    form: str | None = None  # of the values of a flag that may be given without one, a regular expression

    def value_of(self, text: str) -> str:
        """Returns our spelling of a text, where other tools have another."""
        return self.values.get(text.strip().lower(), text)

    def check(self, name: str, value: Any) -> Any:
        """Returns the value as the field holds it; InputError where its type or range is wrong."""
        if value is None:
            return None
        label = name.replace("_", " ")
        if self.parse is not None:
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    check_text(label, text, self.without_value is not None)
            return self.parse(value)
        if self.kind in _KINDS:
            accepted, words = _KINDS[self.kind]
            if not isinstance(value, accepted) or (isinstance(value, bool) and self.kind is not bool):
                raise InputError(f"{label} must be {words}, not {value!r}")
            value = self.kind(value)
        if isinstance(value, str):
            value = self.value_of(value)
            check_text(label, value, self.empty)
        if self.choices is not None and value not in self.choices:
            raise unknown(label, value, self.choices)
        if self.range is not None and value not in self.range:
            raise InputError(f"{label} must be {self.range.words(self.unit)}, not {value}")
        return value


def setting(default: Any, help: str, **description: Any) -> Any:
    """Returns a dataclass field with its default and its `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(help, **description)})


def settings_of(record: type) -> dict[str, Setting]:
    """Returns the settings of a record by the names of its fields, in order: its own, then those of its bases."""
    annotations = inspect.get_annotations(record)
    fields = sorted(dataclasses.fields(record), key=lambda field: field.name not in annotations)
    return {field.name: field.metadata["setting"] for field in fields}


def check_text(label: str, text: str, empty: bool = False) -> None:
    """Raises InputError where text is no UTF-8, as arguments of the command line can be, or empty and may not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise InputError(
            f"{label} '{shown}' is not UTF-8, as pictures record it; rename the file, or type the text in UTF-8"
        ) from None
    if not text and not empty:
        raise InputError(f"{label} is empty")


def fields_from_json(settings: Mapping[str, Setting], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the fields that a JSON object names, checked; InputError names `where` and the wrong key."""
    names = {description.key or name: name for name, description in settings.items()}
    fields: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            suggestion = did_you_mean(key, names) or " leave it out"
            raise InputError(f"{where}: it has a setting {key!r}, unknown to this version;{suggestion}")
        description = settings[names[key]]
        try:
            read = description.from_json if description.from_json and value is not None else None
            fields[names[key]] = read(value) if read else description.check(names[key], value)
        except (InputError, TypeError, KeyError, AttributeError) as error:
            reason = f": {error}" if isinstance(error, InputError) else ""
            raise InputError(f"{where}: it says {key} = {value!r}, which makes no sense{reason}") from None
    return {name: value for name, value in fields.items() if value is not None}
