"""Which bits each layer gets, so that the UNet's output error is least for a number of bytes."""

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mlx_sd.core.errors import InputError

from .constants import palette_bytes
from .palettes import distinct, nearest, table
from .schemes import PALETTE_BITS
from .sensitivity import Sensitivity

PLAIN = 16  # bits of a weight that stays as it is


class Choice(NamedTuple):
    """One way to store one weight."""

    bits: int
    bytes: int
    error: float  # its part of the output's expected squared error, summed over a row


def choices(size: int, sensitivity: Sensitivity, bits: Sequence[int]) -> list[Choice]:
    """Returns the ways to store a weight of `size` numbers in palettes of the given bits, and as it is."""
    values = distinct(sensitivity.occurrences)
    square = np.bincount(values.place, sensitivity.square[values.patterns])
    options = []
    for number in bits:
        palette = table(values, number, np.dtype(np.float16)).astype(np.float64)
        error = float((square * (palette[nearest(values, palette)] - values.values) ** 2).sum())
        options.append(Choice(number, palette_bytes((size,), number), error))
    return [*options, Choice(PLAIN, 2 * size, 0.0)]


def budget(sizes: Mapping[str, int], bits: float) -> int:
    """Returns the bytes of weights of these sizes in palettes of the same bits; between two palettes, in proportion.

    Raises InputError for bits below 1 and above 8.
    """
    if not PALETTE_BITS[0] <= bits <= PALETTE_BITS[-1]:
        raise InputError(f"--bits must be from {PALETTE_BITS[0]} to {PALETTE_BITS[-1]}, not {bits:g}")
    low = max(number for number in PALETTE_BITS if number <= bits)
    high = min(number for number in PALETTE_BITS if number >= bits)
    ends = [sum(palette_bytes((size,), number) for size in sizes.values()) for number in (low, high)]
    share = (bits - low) / (high - low) if high > low else 0.0
    return int(ends[0] + share * (ends[1] - ends[0]))


def allocate(options: Mapping[str, Sequence[Choice]], limit: int) -> dict[str, Choice]:
    """Returns a choice for each weight whose bytes are at most `limit` together and whose error is least.

    Every weight begins with the fewest bits. The step that removes most error for each byte is taken again and again:
    along the lower convex hull of each weight's choices, which is optimal but for the last bytes (Shoham and Gersho
    1988). Raises InputError where even the fewest bits are too many bytes.
    """
    current = {name: min(choices, key=lambda choice: choice.bytes) for name, choices in options.items()}
    remaining = limit - sum(choice.bytes for choice in current.values())
    if remaining < 0:
        raise InputError(f"{limit} bytes are too few: with the fewest bits there are {limit - remaining}")
    steps: list[tuple[float, str, Choice]] = []

    def push(name: str) -> None:
        """Adds the best next step of a weight among those that fit."""
        before = current[name]
        following = [
            choice
            for choice in options[name]
            if choice.error < before.error and 0 < choice.bytes - before.bytes <= remaining
        ]
        slopes = [(choice.error - before.error) / (choice.bytes - before.bytes) for choice in following]
        if slopes:
            heapq.heappush(steps, (min(slopes), name, following[slopes.index(min(slopes))]))

    for name in options:
        push(name)
    while steps:
        _, name, choice = heapq.heappop(steps)
        cost = choice.bytes - current[name].bytes
        if cost <= remaining:
            current[name], remaining = choice, remaining - cost
        push(name)
    return current
