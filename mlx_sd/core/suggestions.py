"""The nearest right name for one that is spelled wrong."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns " did you mean 'NAME'?" with the name that is spelled most alike, or nothing where none is close."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f" did you mean {matches[0]!r}?" if matches else ""
