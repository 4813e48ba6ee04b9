"""A text that is read -> its chunks of tokens, with the embeddings that it names in their places."""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from ..core.errors import InputError
from . import chunks
from .chunks import Chunk, Token, Vector, Word
from .embeddings import Vectors
from .pieces import Sections
from .styles import Style
from .tokenizer import Tokenizer

# An embedding as diffusers and as ComfyUI write it.
_MARKED = re.compile(r"<(?P<angle>[^<>\s]+)>|(?<!\S)embedding:(?P<comfy>[^\s,()]+)")


class Counted(Protocol):
    """What splitting needs of an embedding: how many tokens it takes the place of."""

    @property
    def tokens(self) -> int:
        """Returns how many tokens that are."""


class Splitter:
    """Splits texts of a style into chunks for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, style: Style, embeddings: Mapping[str, Counted]):
        """embeddings: by the names that texts use. InputError where a name is an ordinary word."""
        self.tokenizer, self._style, self._embeddings = tokenizer, style, embeddings
        for name in embeddings:
            if tokenizer.token(name.lower()) is not None:
                raise InputError(
                    f"the embedding's name {name!r} is an ordinary word of prompts; give it another, "
                    "--embedding PATH:NAME"
                )
        names = [(name, tokenizer.ids(name)) for name in embeddings] if style.bare_names else []
        # Used by name alone, the longest first.
        self._names = sorted(((name, ids) for name, ids in names if ids), key=lambda pair: -len(pair[1]))

    def chunks(self, sections: Sections) -> list[Chunk]:
        """Returns the chunks of a text, at least one."""
        words: list[list[Word]] = []
        number = 0
        for section in sections:
            words.append([])
            for piece in section:
                for text in self._style.words(piece.text):
                    words[-1] += self._words(text, piece.weight, number)
                number += 1
        return chunks.chunks(words, self.tokenizer, self._style.rule)

    def _words(self, text: str, weight: float, piece: int) -> list[Word]:
        """Returns the tokens of a text, in words; an embedding is a word."""
        words: list[Word] = []
        start = 0
        for match in _MARKED.finditer(text):
            name = self._name(match)
            if name is None:
                continue
            words += self._plain_words(text[start : match.start()], weight, piece)
            words.append(self._vectors(name, weight, piece))
            start = match.end()
        return words + self._plain_words(text[start:], weight, piece)

    def _name(self, match: "re.Match[str]") -> str | None:
        """Returns the embedding that <name> or embedding:name means; None for other text in angle brackets."""
        for name in (match[0], match["angle"], match["comfy"], (match["comfy"] or "").removesuffix(".safetensors")):
            if name in self._embeddings:
                return name
        if match["comfy"] and not self._style.bare_names:  # in ComfyUI it can mean nothing else
            loaded = ", ".join(self._embeddings) or "none"
            raise InputError(
                f"the prompt names {match[0]}, which is not loaded; --embedding PATH loads it ({loaded} is)"
            )
        return None

    def _plain_words(self, text: str, weight: float, piece: int) -> list[Word]:
        """Returns the tokens of a text without marks as one word, and embeddings that it names, in their places."""
        ids = self.tokenizer.ids(text)
        words: list[Word] = []
        current: Word = []
        place = 0
        while place < len(ids):
            name = next((name for name, tokens in self._names if ids[place : place + len(tokens)] == tokens), None)
            if name is None:
                current.append(Token(ids[place], weight, piece))
                place += 1
                continue
            words += [current] * bool(current) + [self._vectors(name, weight, piece)]
            current = []
            place += len(self.tokenizer.ids(name))
        return words + [current] * bool(current)

    def _vectors(self, name: str, weight: float, piece: int) -> Word:
        return [Token(0, weight, piece, Vector(name, row)) for row in range(self._embeddings[name].tokens)]


def by_name(embeddings: Sequence[Vectors]) -> dict[str, Vectors]:
    """Returns embeddings by their names; InputError where two have the same."""
    named = {vectors.embedding.name or "": vectors for vectors in embeddings}
    if len(named) < len(embeddings):
        raise InputError("two embeddings have one name; give one of them another, --embedding PATH:NAME")
    return named
