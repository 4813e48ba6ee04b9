"""The settings in which two pictures differ."""

from collections.abc import Mapping
from typing import Any

from .request import SETTINGS

Difference = tuple[str, Any, Any]  # the setting's name, its value in the first, and in the second


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Returns the settings in which two requests differ, as JSON objects, in the order of `SETTINGS`.

    None stands for a setting that one of them does not have. Names that are no settings of this version come last.
    """
    names = [setting.key or name for name, setting in SETTINGS.items()]
    others = sorted((first.keys() | second.keys()) - {*names})
    pairs = ((name, first.get(name), second.get(name)) for name in (*names, *others))
    return [(name, before, after) for name, before, after in pairs if before != after]
