"""What the styles of prompts have in common: pieces of text with a weight, in sections."""

from typing import NamedTuple


class Piece(NamedTuple):
    """A part of a prompt that goes to the tokenizer as it is, and the weight of its tokens."""

    text: str
    weight: float = 1.0


# The pieces between two BREAKs. Each section begins a chunk of tokens of its own.
Section = tuple[Piece, ...]
# A text, read: what a text encoder encodes at once, in as many chunks as it needs.
Sections = tuple[Section, ...]


class Blend(NamedTuple):
    """Texts whose encodings are mixed with weights."""

    texts: tuple[Sections, ...]
    weights: tuple[float, ...]


class Part(NamedTuple):
    """A blend in a row of them, and how strong it is; 1 leaves it as it is."""

    blend: Blend
    weight: float = 1.0


def alone(sections: Sections) -> tuple[Part, ...]:
    """Returns the parts of a prompt that is one text."""
    return (Part(Blend((sections,), (1.0,))),)


def joined(pieces: list[Piece], glue: str = "") -> Section:
    """Returns the pieces with neighbours of equal weight made one; without any, one empty piece."""
    result: list[Piece] = []
    for piece in pieces:
        if result and result[-1].weight == piece.weight:
            result[-1] = Piece(result[-1].text + glue + piece.text, piece.weight)
        else:
            result.append(piece)
    return tuple(result) or (Piece(""),)
