"""Prompts joined by AND, as in A1111: each is a direction of guidance of its own (Liu et al. 2022, eq. 11)."""

import re
from typing import NamedTuple

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"(?P<text>.*?)(?:\s*:\s*(?P<weight>[-+]?(?:\d+\.?|\d*\.\d+)))?\s*", re.DOTALL)


class Direction(NamedTuple):
    """A prompt and the strength of its guidance beside that of the others."""

    text: str
    weight: float = 1.0


def directions(text: str) -> tuple[Direction, ...]:
    """Returns the prompts between ANDs, each with the number behind its last colon, `a tent AND a moon :0.5`.

    Without AND the text is one prompt as it stands: a number at its end, as in "16:9", weighs nothing, unlike in A1111.
    """
    result = []
    parts = _AND.split(text)
    if len(parts) == 1:
        return (Direction(text),)
    for part in parts:
        match = _WEIGHT.fullmatch(part)
        assert match is not None  # every text matches
        result.append(Direction(match["text"], float(match["weight"] or 1)))
    return tuple(result)
