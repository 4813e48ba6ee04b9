"""settings.json of a run: written when it begins, and compared when it is resumed."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ...core.files import read_json
from ...setting import fields_from_json, settings_of
from . import durable

NAME = "settings.json"
VERSION = 1  # of the form of settings.json


def to_json(settings: Any) -> dict[str, Any]:
    """Returns the values of a settings record as settings.json holds them; what JSON lacks is written as its text.

    settings: an instance of a dataclass whose fields have a `Setting`.
    """
    values = {
        description.key or field: description.to_json(getattr(settings, field))
        for field, description in settings_of(type(settings)).items()
    }
    return _plain(values)


def write(folder: Path, settings: Any) -> None:
    """Writes settings.json into a folder; OSError where that fails."""
    content = {"version": VERSION, "settings": to_json(settings)}
    durable.write(folder / NAME, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read(folder: Path, record: type) -> Any:
    """Returns the settings record of a run; InputError where settings.json is missing, damaged or of another kind."""
    path = folder / NAME
    content = read_json(path)
    recorded = content.get("settings")
    if content.get("version") != VERSION or not isinstance(recorded, dict):
        raise InputError(f"{path} is not of this version of mlx-sd; begin a new run in another folder")
    return record(**fields_from_json(settings_of(record), recorded, str(path)))


def check(folder: Path, settings: Any, *, display: Collection[str] = (), growing: Collection[str] = ()) -> None:
    """Compares a settings record with settings.json; InputError names every field that is not as it was.

    display: fields that may differ, because they change nothing about what is learned. growing: fields with numbers
    that may grow. A field that settings.json does not know, of a run that an older version began, must have its
    default. InputError also where settings.json is damaged, or says more than the record has.
    """
    content = read_json(folder / NAME)
    recorded = content.get("settings")
    if content.get("version") != VERSION or not isinstance(recorded, dict):
        raise InputError(f"{folder / NAME} is not of this version of mlx-sd; begin a new run in another folder")
    values, descriptions = to_json(settings), settings_of(type(settings))
    keys = {field: description.key or field for field, description in descriptions.items()}
    if unknown := sorted(recorded.keys() - {*keys.values()}):
        raise InputError(
            f"{folder / NAME} has the setting {unknown[0]!r}, which this training has not; resume with the command "
            "and the version that began it"
        )
    defaults = _defaults(type(settings))
    before = {field: recorded.get(key, defaults.get(field)) for field, key in keys.items()}
    problems = [
        _difference(field.replace("_", " "), before[field], values[key], field in growing)
        for field, key in keys.items()
        if field not in display and before[field] != values[key]
    ]
    if problems := [problem for problem in problems if problem]:
        raise InputError(f"{folder} was begun with {', '.join(problems)}; give the same, or begin in another folder")


def _difference(label: str, before: Any, after: Any, growing: bool) -> str:
    """The difference in words; "" where a number may grow and has grown."""
    if growing and all(isinstance(value, int | float) for value in (before, after)) and after > before:
        return ""
    return f"{label} {_short(before)}, not {_short(after)}{' (it may grow)' if growing else ''}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-17:]}"


def _defaults(record: type) -> dict[str, Any]:
    """The defaults of a record's fields as settings.json would hold them."""
    descriptions = settings_of(record)
    return _plain(
        {
            field.name: descriptions[field.name].to_json(field.default)
            for field in dataclasses.fields(record)
            if field.default is not dataclasses.MISSING
        }
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values after they have been written and read."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain
