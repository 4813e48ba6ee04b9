"""The nearest right name for one that is spelled wrong."""

import difflib
from collections.abc import Iterable

from .errors import InputError


def closest(name: str, names: Iterable[str]) -> str | None:
    """Returns the name that is spelled most alike, or None where none is close."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns " did you mean 'NAME'?" with the closest name, or nothing where none is close."""
    match = closest(name, names)
    return "" if match is None else f" did you mean {match!r}?"


def unknown(kind: str, name: str, names: Iterable[str], others: str = "") -> InputError:
    """Returns the error for a name of some kind that is not among `names`; others: what is taken beside them."""
    names = list(names)
    return InputError(f"unknown {kind} {name!r};{did_you_mean(name, names)} there are {', '.join(names)}{others}")
