"""How weights of tokens change what a text encoder returns, in each style."""

import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from .chunks import Chunk

# (chunks, whether each token may be looked at (k, tokens) or None for all) -> hidden states (k, tokens, C)
Encode = Callable[[Sequence[Chunk], mx.array | None], mx.array]
# (chunks, encode, the chunk of an empty text) -> weighted hidden states (k, tokens, C)
Weighting = Callable[[Sequence[Chunk], Encode, Chunk], mx.array]
_LEAST_MEAN = 1e-4  # of a chunk's mean, as a share of its standard deviation, below which it is not restored
_LEAST_WEIGHT = 1e-5  # below which a down-weighted piece has no more influence, in compel


def scaled(chunks: Sequence[Chunk], encode: Encode, empty: Chunk) -> mx.array:
    """Multiplies the rows of tokens by their weights, then each chunk so that its mean is what it was, as A1111.

    Every row of a chunk with weights changes. The mean is of all rows and channels; where it is almost 0, so that
    dividing by it would blow up the rows, it is not restored.
    """
    hidden = encode(chunks, None)
    if not has_weights(chunks):
        return hidden
    rows = hidden.astype(mx.float32)
    weighted = rows * _weights(chunks)
    before, after = (array.mean(axis=(1, 2), keepdims=True) for array in (rows, weighted))
    spread = mx.std(weighted, axis=(1, 2), keepdims=True)
    restored = weighted * mx.where(mx.abs(after) > _LEAST_MEAN * spread, before / after, 1.0)
    keep = mx.array([has_weights([chunk]) for chunk in chunks])[:, None, None]
    return mx.where(keep, restored, rows).astype(hidden.dtype)


def interpolated(chunks: Sequence[Chunk], encode: Encode, empty: Chunk) -> mx.array:
    """Moves the rows of tokens away from those of an empty text, e + w (z - e), as ComfyUI; others stay as they are."""
    hidden = encode(chunks, None)
    return _away_from(encode([empty], None), hidden, chunks) if has_weights(chunks) else hidden


def masked(chunks: Sequence[Chunk], encode: Encode, empty: Chunk) -> mx.array:
    """Interpolates as ComfyUI; weights below 1 also mix in the prompt without that piece, as compel.

    The piece of weight w counts tan((1 - w) pi / 2) times, encoded with its tokens out of sight. Further chunks take
    the first chunk's row of the end token.
    """
    hidden = encode(chunks, None)
    if not has_weights(chunks):
        return _with_first_end(hidden, chunks)
    base = encode([empty], None)
    total, count = _away_from(base, hidden, chunks), 1.0
    for piece, weight in _lowered(chunks).items():
        visible = mx.array([[number != piece for number in chunk.pieces] for chunk in chunks])
        share = math.tan((1 - max(weight, _LEAST_WEIGHT)) * math.pi / 2)
        without = _away_from(base, encode(chunks, visible), chunks)
        total, count = total + share * without, count + share
    return _with_first_end((total / count).astype(hidden.dtype), chunks)


def has_weights(chunks: Sequence[Chunk]) -> bool:
    """Tells whether any token has a weight other than 1."""
    return any(weight != 1 for chunk in chunks for weight in chunk.weights)


def _weights(chunks: Sequence[Chunk]) -> mx.array:
    return mx.array([chunk.weights for chunk in chunks], dtype=mx.float32)[:, :, None]


def _away_from(base: mx.array, hidden: mx.array, chunks: Sequence[Chunk]) -> mx.array:
    """Returns e + w (z - e), and z itself, bit for bit, where w is 1; base: e (1, tokens, C), of the empty text."""
    weights, base = _weights(chunks), base.astype(mx.float32)
    moved = base + weights * (hidden.astype(mx.float32) - base)
    return mx.where(weights == 1, hidden, moved.astype(hidden.dtype))


def _lowered(chunks: Sequence[Chunk]) -> dict[int, float]:
    """Returns the pieces with a weight below 1, by number."""
    return {
        piece: weight
        for chunk in chunks
        for piece, weight in zip(chunk.pieces, chunk.weights, strict=True)
        if piece >= 0 and weight < 1
    }


def _with_first_end(hidden: mx.array, chunks: Sequence[Chunk]) -> mx.array:
    """Returns the rows with the first chunk's row of the end token in the place of the others' own."""
    if len(chunks) == 1:
        return hidden
    ends = mx.array([[place == chunk.length + 1 for place in range(len(chunk.ids))] for chunk in chunks])
    return mx.where(ends[:, :, None], hidden[0, chunks[0].length + 1], hidden)
