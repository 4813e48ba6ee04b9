"""The styles in which prompts may be written: how a text is read, split over chunks, and weighted."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import chunks, comfy, compel, emphasis, weighting
from .pieces import Part, Piece, alone
from .style_names import A1111, COMFY, COMPEL, PLAIN


class Style(NamedTuple):
    """A way to write prompts."""

    parts: Callable[[str], Sequence[Part]]
    rule: chunks.Rule
    weigh: weighting.Weighting
    words: Callable[[str], list[str]]  # of a piece: what is tokenized together
    edits: bool = False  # [from:to:when], [a|b] and AND
    bare_names: bool = True  # an embedding is used by its name, without a mark


STYLES: dict[str, Style] = {
    A1111: Style(
        lambda text: alone(emphasis.sections(text)), chunks.at_commas, weighting.scaled, lambda text: [text], edits=True
    ),
    COMFY: Style(
        lambda text: alone(comfy.sections(text)),
        chunks.by_words,
        weighting.interpolated,
        comfy.words,
        bare_names=False,
    ),
    COMPEL: Style(compel.parts, chunks.by_sentences, weighting.masked, lambda text: [text]),
    PLAIN: Style(lambda text: alone(((Piece(text),),)), chunks.as_filled, weighting.scaled, lambda text: [text]),
}
