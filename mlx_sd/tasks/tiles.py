"""Pictures too large for the UNet: overlapping tiles whose predictions are blended at every evaluation.

As in MultiDiffusion (Bar-Tal et al. 2023, eq. 5), but with weights that fall to the edge of a tile, so that no seam is
left where one ends. Latents and noise are of the whole picture; only the network sees tiles.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from math import ceil, pi
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..ranks.deal import Deal

# Cuts the part of a tile out of an array (B, h, w, C) of the whole picture
Cut = Callable[[mx.array], mx.array]

_OVERLAP = 0.25  # of a tile's side, at least


class Predictor(Protocol):
    """The network as the sampling loop sees it, over one tile."""

    @property
    def full(self) -> int:
        """How many evaluations were not cached."""
        ...

    def __call__(self, latents: mx.array, timestep: float) -> mx.array:
        """Returns the prediction, float32, for latents (N, h, w, C)."""
        ...


class Span(NamedTuple):
    """The latents from `begin` to before `end` along one side of a picture, with the weight of each."""

    begin: int
    end: int
    weights: NDArray[np.float64]


def spans(length: int, tile: int, multiple: int) -> list[Span]:
    """Returns spans of one size, at most `tile`, that cover `length` evenly; their weights add up to 1 everywhere.

    They begin at multiples of `multiple`, the network's downsampling: shifted by that much, it computes the same. Only
    the last may be shorter. A tile is at least two multiples.
    """
    overlap = _up(_OVERLAP * tile, multiple)
    stride = (tile - overlap) // multiple * multiple
    count = 1 if length <= tile else 1 + ceil((length - tile) / stride)
    size = min(tile, _up((length + (count - 1) * overlap) / count, multiple))
    begins = [_up(i * (length - size) / (count - 1), multiple) if i else 0 for i in range(count)]
    ends = [min(begin + size, length) for begin in begins]
    weights = np.zeros((count, length))
    for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        position = np.arange(begin, end) + 0.5
        rise = (position - begin) / (ends[i - 1] - begin) if i else np.ones(end - begin)
        fall = (end - position) / (end - begins[i + 1]) if i + 1 < count else np.ones(end - begin)
        weights[i, begin:end] = np.sin(pi / 2 * np.clip(np.minimum(rise, fall), 0, 1)) ** 2
    weights /= weights.sum(axis=0)
    return [Span(b, e, w[b:e]) for b, e, w in zip(begins, ends, weights, strict=True)]


class Tile(NamedTuple):
    """A tile: where it is, and the network over it."""

    row: Span
    column: Span
    predict: Predictor


class Tiled:
    """The network as the sampling loop sees it, over a large picture; each tile has a predictor of its own."""

    def __init__(
        self,
        size: tuple[int, int],
        tile: int,
        multiple: int,
        predictor: Callable[[Cut], Predictor],
        deal: Deal | None = None,
    ):
        """Lays the tiles over `size`, (height, width) in latents; `predictor` is called for each, with its `Cut`.

        deal: of the tiles over ranks, which exchange their predictions.
        """
        self._deal = Deal() if deal is None else deal
        self._tiles = [
            Tile(row, column, predictor(partial(_part, row=row, column=column)))
            for row, column in places(size, tile, multiple)
        ]

    def __call__(self, latents: mx.array, timestep: float) -> mx.array:
        """Returns the blended prediction, float32, for latents (N, h, w, C)."""
        predictions = []
        for i in self._deal.share(len(self._tiles)):
            row, column, predict = self._tiles[i]
            predictions.append(predict(_part(latents, row, column), timestep))
            mx.eval(predictions)  # one tile's activations at a time
        shapes = [_part(latents, tile.row, tile.column).shape for tile in self._tiles]
        blended = mx.zeros(latents.shape)
        for tile, prediction in zip(self._tiles, self._deal.collect(predictions, shapes, mx.float32), strict=True):
            row, column = tile.row, tile.column
            weights = mx.array(np.outer(row.weights, column.weights)[..., None].astype(np.float32))
            margins = [
                (0, 0),
                (row.begin, latents.shape[1] - row.end),
                (column.begin, latents.shape[2] - column.end),
                (0, 0),
            ]
            blended = blended + mx.pad(weights * prediction, margins)
        return blended

    @property
    def full(self) -> int:
        """How many evaluations were not cached, in the tile of this rank where most were not."""
        return max((self._tiles[i].predict.full for i in self._deal.share(len(self._tiles))), default=0)


def places(size: tuple[int, int], tile: int, multiple: int) -> list[tuple[Span, Span]]:
    """Returns the spans in height and width of every tile over `size`, (height, width) in latents; see `spans`."""
    rows, columns = (spans(side, tile, multiple) for side in size)
    return list(product(rows, columns))


def _part(x: mx.array, row: Span, column: Span) -> mx.array:
    return x[:, row.begin : row.end, column.begin : column.end]


def _up(value: float, multiple: int) -> int:
    return ceil(value / multiple) * multiple
