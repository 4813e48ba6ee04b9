r"""Weights as in ComfyUI: (text) is 1.1 times as strong, also inside others; (text:1.3) is 1.3, whatever it is in.

Square brackets are ordinary text. A backslash makes a round bracket ordinary text.
"""

from .pieces import Piece, Sections

_FACTOR = 1.1
# Characters that no prompt has, in the place of escaped brackets.
_ESCAPES = {"\\(": "\0\2", "\\)": "\0\1"}


def sections(text: str) -> Sections:
    """Returns the pieces of a prompt; in ComfyUI there is one section."""
    for escape, mark in _ESCAPES.items():
        text = text.replace(escape, mark)
    return (tuple(Piece(_unescaped(words), weight) for words, weight in _weighted(text)) or (Piece(""),),)


def words(text: str) -> list[str]:
    """Returns the words of a piece, which are tokenized one by one."""
    return [word for word in text.replace("\n", " ").split(" ") if word]


def _unescaped(text: str) -> str:
    for escape, mark in _ESCAPES.items():
        text = text.replace(mark, escape[1:])
    return text


def _weighted(text: str) -> list[Piece]:
    """Returns pieces whose texts still have marks; brackets that are not closed are text."""
    result: list[Piece] = []
    pending = [Piece(text)]  # the next piece last
    while pending:
        piece = pending.pop()
        parts = _split(piece.text)
        if parts == [piece.text] and not _is_closed(piece.text):
            result.append(piece)
            continue
        inner: list[Piece] = []
        for part in parts:
            if not _is_closed(part):
                inner.append(Piece(part, piece.weight))
                continue
            content, weight = part[1:-1], piece.weight * _FACTOR
            colon = content.rfind(":")
            if colon > 0 and (number := _number(content[colon + 1 :])) is not None:
                content, weight = content[:colon], number
            inner.append(Piece(content, weight))
        pending += reversed(inner)
    return result


def _split(text: str) -> list[str]:
    """Returns the text in parts: what is in a pair of brackets of the outermost level, with them, and what is not."""
    parts: list[str] = []
    current, level = "", 0
    for character in text:
        if character == "(" and level == 0 and current:
            parts.append(current)
            current = ""
        current += character
        if character == "(":
            level += 1
        elif character == ")":
            level -= 1
            if level == 0:
                parts.append(current)
                current = ""
    return [*parts, current] if current else parts


def _is_closed(part: str) -> bool:
    return len(part) >= 2 and part[0] == "(" and part[-1] == ")"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
