r"""Weights as in A1111: (text) is 1.1 times as strong, [text] 1.1 times weaker, (text:1.3) 1.3 times; they multiply.

A backslash makes a bracket ordinary text. A bracket that is not closed reaches to the end. BREAK begins a new chunk.
"""

import re
from itertools import pairwise

from .pieces import Piece, Sections, joined

_ROUND, _SQUARE = 1.1, 1 / 1.1
# An escaped character, a bracket, a weight that closes one, or text.
_TOKEN = re.compile(
    r"\\[()\[\]\\]"
    r"|\\"
    r"|\("
    r"|\["
    r"|:\s*(?P<weight>[+-]?[.\d]+)\s*\)"
    r"|\)"
    r"|\]"
    r"|[^\\()\[\]:]+"
    r"|:"
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def sections(text: str) -> Sections:
    """Returns the sections of a prompt between its BREAKs, at least one, each of pieces with weights.

    Brackets reach over BREAK: its weight counts in all sections that it touches.
    """
    # Pieces are mutable pairs here, as a bracket that closes changes the weights of all since it opened.
    pieces: list[list[str | float]] = []
    breaks: list[int] = []  # numbers of the pieces before which a section begins
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        """Multiplies the weights of all pieces from one on."""
        for piece in pieces[start:]:
            piece[1] = float(piece[1]) * factor

    for match in _TOKEN.finditer(text):
        token = match[0]
        weight = _number(match["weight"])
        if token.startswith("\\"):
            pieces.append([token[1:], 1.0])
        elif token in opened:
            opened[token].append(len(pieces))
        elif weight is not None and opened["("]:
            multiply(opened["("].pop(), weight)
        elif token == ")" and opened["("]:
            multiply(opened["("].pop(), _ROUND)
        elif token == "]" and opened["["]:
            multiply(opened["["].pop(), _SQUARE)
        else:
            first, *others = _BREAK.split(token)
            pieces.append([first, 1.0])
            for part in others:
                breaks.append(len(pieces))
                pieces.append([part, 1.0])
    for start in opened["("]:
        multiply(start, _ROUND)
    for start in opened["["]:
        multiply(start, _SQUARE)
    bounds = [0, *breaks, len(pieces)]
    return tuple(
        joined([Piece(str(words), float(weight)) for words, weight in pieces[start:end]])
        for start, end in pairwise(bounds)
    )


def _number(text: str | None) -> float | None:
    """Returns the weight that stands before a closing bracket; None where it is no number, such as 1.2.3."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
