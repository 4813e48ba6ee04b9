"""Names of the settings of a request in the JSON and the forms of other programs, from the table that `Request` has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from ...core.errors import InputError
from ...core.suggestions import did_you_mean
from ...request import SETTINGS
from ...setting import Setting
from .request_error import RequestError, wrong_input

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class _Spellings(NamedTuple):
    """What each name, written with underscores, means."""

    names: Mapping[str, str]  # -> the field of a request
    conversions: Mapping[str, Callable[[str], Sequence[str]]]  # -> the words of the command line for a value
    false_friends: Mapping[str, str]  # -> the way out, for names of another meaning
    flags: Mapping[str, str]  # of the command line -> the field


@cache
def _spellings() -> _Spellings:
    names: dict[str, str] = {}
    conversions: dict[str, Callable[[str], Sequence[str]]] = {}
    false_friends: dict[str, str] = {}
    flags: dict[str, str] = {}
    shown = {name: setting for name, setting in SETTINGS.items() if not setting.hidden}
    for name, setting in shown.items():
        flag = (setting.flag or name).lstrip("-")
        flags[_key(flag)] = name
        for alias in setting.aliases.split():
            names.setdefault(_key(alias), name)
        conversions |= {_key(alias): function for alias, function in setting.conversions.items()}
        false_friends |= {_key(alias): words for alias, words in setting.false_friends.items()}
    names |= {_key(spelling): name for name, s in shown.items() for spelling in (s.flag or name, s.key or name, name)}
    return _Spellings(names, conversions, false_friends, flags)


def _key(name: str) -> str:
    return name.strip("-").replace("-", "_")


def key_of(field: str) -> str:
    """Returns the key of a field of a request in JSON."""
    return SETTINGS[field].key or field


def read(values: Mapping[str, Any], others: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the settings that a client's JSON object names, by the keys of `Request.to_json`.

    Names are those of `Request.to_json`, of the command line, or aliases of other programs; None is left out. others:
    names that are suggested too. Raises RequestError for an unknown name, and where two names say the same setting.
    """
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value in values.items():
        if value is None:
            continue
        field, meaning = _read_one(name, value, others)
        if field in origins:
            raise RequestError(
                f"{origins[field]!r} and {name!r} are the same setting; leave one of them out", field=name
            )
        origins[field], settings[key_of(field)] = name, meaning
    return settings


def read_form(values: Mapping[str, str], others: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the settings that the text fields of a form name: as `read`, with texts read as what the setting is."""
    table = _spellings()
    read_values: dict[str, Any] = {}
    for name, text in values.items():
        field = table.names.get(_key(name))
        try:
            read_values[name] = text if field is None else value_of(SETTINGS[field], text)
        except ValueError:
            raise RequestError(f"{name} makes no sense as {text!r}", field=name) from None
    return read(read_values, others)


def value_of(setting: Setting, text: str) -> Any:
    """Returns the value that the text of a form says for a setting; ValueError where it cannot be one."""
    if setting.kind is bool:
        if text.lower() in (*_TRUE, *_FALSE):
            return text.lower() in _TRUE
        raise ValueError(text)
    if setting.kind in (int, float):
        return int(text) if re.fullmatch(r"\s*[-+]?\d{1,15}\s*", text) else float(text)
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError(text) from None
    return text


def _read_one(name: str, value: Any, others: Sequence[str]) -> tuple[str, Any]:
    """Returns the field that a name means, and the value in our words."""
    table, key = _spellings(), _key(name)
    if key in table.names:
        return table.names[key], value
    if key in table.conversions:
        try:
            word = table.conversions[key](str(value))[0]
        except InputError as error:
            raise wrong_input(error, name) from None
        flag, _, text = word.partition("=")
        field = table.flags[_key(flag)]
        try:
            return field, value_of(SETTINGS[field], text)
        except ValueError:
            raise RequestError(f"{name} makes no sense as {text[:40]!r}", field=name) from None
    if key in table.false_friends:
        raise RequestError(f"{name}: {table.false_friends[key].format(value=value)}", field=name)
    suggestion = did_you_mean(key, [*table.names, *others]) or " leave it out"
    raise RequestError(f"unknown parameter {name!r};{suggestion}", field=name, code="unknown_parameter")
