"""Prompts -> what the UNet attends to: tokens, text encoders, weights."""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from ..networks.clip import Encoded, TextEncoder
from . import chunks
from .chunks import Chunk
from .embeddings import Embedding, Vectors
from .pieces import Part, Sections
from .splitting import Splitter, by_name
from .styles import STYLES
from .tokenizer import Tokenizer


class Encoding(NamedTuple):
    """An encoded prompt, as the UNet is conditioned on it."""

    context: mx.array  # (1, tokens, C), both encoders' channels side by side
    pooled: mx.array | None  # (1, P), of models that take it

    def zeros(self) -> "Encoding":
        """Returns zeros of the same shapes, what SDXL takes for no prompt."""
        return Encoding(mx.zeros_like(self.context), None if self.pooled is None else mx.zeros_like(self.pooled))


class PromptEncoder:
    """The text encoders of a model, with a style of prompts and the embeddings that prompts may use."""

    def __init__(
        self,
        text_encoders: Sequence[TextEncoder],
        tokenizers: Sequence[Tokenizer],
        *,
        style: str = "plain",
        embeddings: Sequence[Vectors] = (),
        pools: bool = False,
    ):
        """pools: the model takes pooled text and the last layer but one, not normalised, as SDXL does."""
        self._style = STYLES[style]
        self._pools = pools
        self._embeddings = by_name(embeddings)
        self._encoders = [
            (network, Splitter(tokenizer, self._style, self._embeddings))
            for network, tokenizer in zip(text_encoders, tokenizers, strict=True)
        ]

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """Returns the embeddings that prompts may use, with their names and hashes."""
        return tuple(vectors.embedding for vectors in self._embeddings.values())

    def count_chunks(self, text: str, second: str | None = None) -> int:
        """Returns how many chunks a prompt fills in the encoder that needs most; texts as `encode` takes them."""
        return max(
            sum(max(len(splitter.chunks(sections)) for sections in part.blend.texts) for part in parts)
            for parts, (_, splitter) in zip(self._parts(text, second), self._encoders, strict=True)
        )

    def encode(self, text: str, clip_skip: int = 0, least_chunks: int = 0, second: str | None = None) -> Encoding:
        """Encodes a prompt of any length.

        clip_skip: layers to leave out at the end. least_chunks: chunks to have at least; further ones are empty.
        second: the text for SDXL's second encoder; None is the same one.
        """
        contexts, pooled = [], None
        for i, parts in enumerate(self._parts(text, second)):
            encodings = [self._part(part, i, clip_skip) for part in parts]
            rows = mx.concatenate([encoding.context for encoding in encodings], axis=1)
            contexts.append(self._lengthened(rows, i, clip_skip, least_chunks))
            pooled = encodings[0].pooled
        return Encoding(mx.concatenate(contexts, axis=-1), pooled if self._pools else None)

    def _parts(self, text: str, second: str | None) -> list[Sequence[Part]]:
        """Returns the parts of the text of each encoder."""
        first = self._style.parts(text)
        others = first if second is None else self._style.parts(second)
        return [first, *[others] * (len(self._encoders) - 1)]

    def _part(self, part: Part, encoder: int, clip_skip: int) -> Encoding:
        """Returns a blend of texts, moved away from an empty text by its weight."""
        encodings = [self._text(sections, encoder, clip_skip) for sections in part.blend.texts]
        longest = (
            max(encoding.context.shape[1] for encoding in encodings) // self._encoders[encoder][1].tokenizer.length
        )
        rows = [self._lengthened(encoding.context, encoder, clip_skip, longest) for encoding in encodings]
        if len(rows) == 1:
            context, pooled = rows[0], encodings[0].pooled
        else:
            weights = part.blend.weights
            context = sum((w * row for w, row in zip(weights, rows, strict=True)), mx.zeros_like(rows[0]))
            pools = [encoding.pooled for encoding in encodings if encoding.pooled is not None]
            pooled = sum((w * p for w, p in zip(weights, pools, strict=True)), mx.zeros_like(pools[0]))
        if part.weight != 1:
            nothing = self._lengthened(context[:, :0], encoder, clip_skip, longest)
            context = nothing + part.weight * (context - nothing)
        return Encoding(context, pooled)

    def _text(self, sections: Sections, encoder: int, clip_skip: int) -> Encoding:
        """Returns a text's weighted rows (1, 77 k, C), and the first chunk's pooled row, which has no weights."""
        network, splitter = self._encoders[encoder]
        pooled: list[mx.array] = []

        def encode(sequence: Sequence[Chunk], visible: mx.array | None) -> mx.array:
            """Returns the hidden states that the UNet takes, (k, tokens, C)."""
            encoded = self._run(network, sequence, encoder, visible)
            pooled.append(encoded.pooled[:1])
            return self._hidden(network, encoded, clip_skip)

        sequence = splitter.chunks(sections)
        rows = self._style.weigh(sequence, encode, chunks.empty(splitter.tokenizer))
        return Encoding(rows.reshape(1, -1, rows.shape[-1]), pooled[0])

    def _lengthened(self, rows: mx.array, encoder: int, clip_skip: int, count: int) -> mx.array:
        """Returns rows (1, 77 k, C) with as many empty chunks behind them as make `count` chunks."""
        network, splitter = self._encoders[encoder]
        lacking = count - rows.shape[1] // splitter.tokenizer.length
        if lacking <= 0:
            return rows
        encoded = self._run(network, [chunks.empty(splitter.tokenizer)], encoder, None)
        return mx.concatenate([rows, *[self._hidden(network, encoded, clip_skip)] * lacking], axis=1)

    def _hidden(self, network: TextEncoder, encoded: Encoded, clip_skip: int) -> mx.array:
        return encoded.hidden[-2 - clip_skip] if self._pools else network.norm(encoded.hidden[-1 - clip_skip])

    def _run(self, network: TextEncoder, sequence: Sequence[Chunk], encoder: int, visible: mx.array | None) -> Encoded:
        ids = mx.array([chunk.ids for chunk in sequence])
        places = [(row, place, vector) for row, chunk in enumerate(sequence) for place, vector in chunk.vectors]
        if not places:
            return network(ids, visible=visible)
        embedded = network.token_embedding(ids)
        for row, place, (name, number) in places:
            embedded[row, place] = self._embeddings[name].arrays[encoder][number].astype(embedded.dtype)
        return network(ids, embedded=embedded, visible=visible)
