"""Pieces of a prompt -> chunks of as many tokens as a text encoder takes, by the rules of each style."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .tokenizer import Tokenizer

_BACKTRACK = 20  # tokens after the last comma that may move to the next chunk, A1111's setting
_LONG_WORD = 8  # tokens from which on ComfyUI splits a word over two chunks
_SENTENCE_ENDS = frozenset({".</w>"})
_PHRASE_ENDS = frozenset({".</w>", ",</w>", ";</w>", ":</w>"})


class Vector(NamedTuple):
    """A row of an embedding (textual inversion), which stands in the place of a token."""

    embedding: str
    row: int


class Token(NamedTuple):
    """A token of a prompt."""

    id: int  # 0 where a vector takes its place
    weight: float
    piece: int  # number of the piece that it is of, over all sections
    vector: Vector | None = None


# Tokens that some rule keeps together: a word, or an embedding.
Word = list[Token]


class Chunk(NamedTuple):
    """The tokens of one call of a text encoder, special ones included: as many as it takes."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    pieces: tuple[int, ...]  # -1 for special tokens
    vectors: tuple[tuple[int, Vector], ...]  # with their places

    @property
    def length(self) -> int:
        """Returns the number of tokens that are not special."""
        return sum(piece >= 0 for piece in self.pieces)

    def words(self, tokenizer: Tokenizer) -> list[str]:
        """Returns the text of each token that is not special; of a vector the embedding and the row."""
        vectors = dict(self.vectors)
        words = (
            f"{vector.embedding}[{vector.row}]" if (vector := vectors.get(place)) else tokenizer.text_of(token)
            for place, token in enumerate(self.ids[1 : self.length + 1], 1)
        )
        return [word.removesuffix("</w>") for word in words]


# (words of a section, tokenizer) -> the tokens of each chunk, without special ones; the last may be empty.
Rule = Callable[[Sequence[Word], Tokenizer], list[list[Token]]]


def chunks(sections: Sequence[Sequence[Word]], tokenizer: Tokenizer, rule: Rule) -> list[Chunk]:
    """Returns the chunks of the words of each section, at least one; a BREAK at the end makes no empty chunk."""
    contents = [tokens for words in sections for tokens in rule(words, tokenizer)]
    if len(contents) > 1 and not contents[-1]:
        contents.pop()
    return [_chunk(tokens, tokenizer) for tokens in contents]


def empty(tokenizer: Tokenizer) -> Chunk:
    """Returns the chunk of an empty text."""
    return _chunk([], tokenizer)


def _chunk(tokens: Sequence[Token], tokenizer: Tokenizer) -> Chunk:
    room = tokenizer.length - 2 - len(tokens)
    special = [tokenizer.end] + [tokenizer.pad] * room
    return Chunk(
        (tokenizer.start, *(token.id for token in tokens), *special),
        (1.0, *(token.weight for token in tokens), *[1.0] * len(special)),
        (-1, *(token.piece for token in tokens), *[-1] * len(special)),
        tuple((place, token.vector) for place, token in enumerate(tokens, 1) if token.vector),
    )


def at_commas(words: Sequence[Word], tokenizer: Tokenizer) -> list[list[Token]]:
    """Fills chunks; where a comma is near the end of a full one, what follows it moves to the next, as in A1111."""
    return _filled(words, tokenizer, tokenizer.token(","))


def as_filled(words: Sequence[Word], tokenizer: Tokenizer) -> list[list[Token]]:
    """Fills chunks one after the other; an embedding is not split."""
    return _filled(words, tokenizer, None)


def _filled(words: Sequence[Word], tokenizer: Tokenizer, comma: int | None) -> list[list[Token]]:
    size = tokenizer.length - 2
    full: list[list[Token]] = []
    current: list[Token] = []
    after_comma: int | None = None  # place after the last comma of the current chunk
    for unit in _units(words):
        if comma is not None and unit[0].id == comma and not unit[0].vector:
            after_comma = len(current) + 1
        elif len(current) == size and after_comma is not None and size - after_comma < _BACKTRACK:
            full.append(current[:after_comma])
            current, after_comma = current[after_comma:], None
        if len(current) + len(unit) > size:
            full.append(current)
            current, after_comma = [], None
        current = current + unit
    return [*full, current]


def by_words(words: Sequence[Word], tokenizer: Tokenizer) -> list[list[Token]]:
    """Fills chunks with whole words, and splits those of 8 tokens and more, as ComfyUI does."""
    size = tokenizer.length - 2
    full: list[list[Token]] = []
    current: list[Token] = []
    for word in words:
        remaining = word
        while len(current) + len(remaining) > size:
            if len(word) >= _LONG_WORD and not word[0].vector:
                room = size - len(current)
                current, remaining = current + remaining[:room], remaining[room:]
            full.append(current)
            current = []
        current = current + remaining
    return [*full, current]


def by_sentences(words: Sequence[Word], tokenizer: Tokenizer) -> list[list[Token]]:
    """Ends each full chunk after a sentence, else a phrase, else a word, as compel does with long prompts."""
    size = tokenizer.length - 2
    tokens = [token for word in words for token in word]
    full: list[list[Token]] = []
    while len(tokens) > size:
        end = _end(tokens[:size], tokenizer)
        if (vector := tokens[end].vector) and vector.row:  # inside an embedding, which began at a place after 0
            end -= vector.row
        full.append(tokens[:end])
        tokens = tokens[end:]
    return [*full, tokens]


def _end(tokens: Sequence[Token], tokenizer: Tokenizer) -> int:
    """Returns how many of the tokens make a chunk: up to the last end of a sentence, of a phrase or of a word."""
    texts = ["" if token.vector else tokenizer.text_of(token.id) for token in tokens]
    for ends in (_SENTENCE_ENDS, _PHRASE_ENDS):
        if places := [place for place, text in enumerate(texts, 1) if text in ends]:
            return places[-1]
    return next((place for place in range(len(texts), 0, -1) if texts[place - 1].endswith("</w>")), len(texts))


def _units(words: Sequence[Word]) -> list[Word]:
    """Returns the words as single tokens, and embeddings as they are."""
    return [unit for word in words for unit in ([word] if word and word[0].vector else [[token] for token in word])]
