"""Random numbers of training: a function of the seed, the step and the example's place, and of nothing before them.

So a run that is resumed, or split over micro-batches or machines, draws what an uninterrupted one draws.
"""

import hashlib
from typing import NamedTuple

import mlx.core as mx


class Place(NamedTuple):
    """The place of one example in a run: its step, counted from 0, and its number in the step's whole batch."""

    step: int
    example: int


def key(seed: int, place: Place, purpose: str) -> mx.array:
    """Returns MLX's key (2,) for one use of random numbers at a place; uses do not share numbers."""
    return mx.random.key(_digest(seed, place, purpose))


def chance(seed: int, place: Place, purpose: str) -> float:
    """Returns a number from 0 to below 1 for one decision at a place."""
    return float(_digest(seed, place, purpose) >> 11) / float(1 << 53)


def _digest(seed: int, place: Place, purpose: str) -> int:
    text = f"{seed}/{place.step}/{place.example}/{purpose}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
