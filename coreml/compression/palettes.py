"""Palettes by k-means: the few values that stand for all numbers of a weight.

One-dimensional k-means runs over the distinct float16 values of a weight, weighted by how often each occurs: there are
at most 65,536, however large the weight.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PATTERNS = 1 << 16  # of the bits of a float16
_ROUNDS = 60  # of Lloyd's algorithm; it converges long before


class Values(NamedTuple):
    """The distinct values of an array in ascending order, and how often each occurs."""

    values: NDArray[np.float64]
    occurrences: NDArray[np.int64]
    patterns: NDArray[np.int64]  # bit patterns that occur
    place: NDArray[np.int64]  # of each of these patterns, where its value stands in `values`


def bits_of(array: np.ndarray) -> NDArray[np.uint16]:
    """Returns the bit pattern of each number as a float16, in one row."""
    return np.ascontiguousarray(array, np.float16).view(np.uint16).ravel()


def distinct(count: np.ndarray) -> Values:
    """Returns the values of numbers of which `count` (PATTERNS,) says how often each bit pattern occurs."""
    patterns = np.flatnonzero(count)
    values, place = np.unique(patterns.astype(np.uint16).view(np.float16).astype(np.float64), return_inverse=True)
    return Values(values, np.bincount(place, count[patterns]), patterns, place)  # two bit patterns are zero


def table(values: Values, bits: int, dtype: np.dtype) -> np.ndarray:
    """Returns the palette (2^bits,) of `dtype`, in ascending order, by k-means."""
    return _kmeans(values.values, values.occurrences, 1 << bits).astype(dtype)


def nearest(values: Values, palette: np.ndarray) -> NDArray[np.int64]:
    """Returns for each of the distinct values the index of the nearest entry of an ascending palette."""
    centers = palette.astype(np.float64)
    return np.searchsorted((centers[1:] + centers[:-1]) / 2, values.values)


def palettize(array: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (2^bits values in ascending order, index of each number's value), by k-means over a tensor's numbers.

    The values have the array's dtype, the indices are uint8 in its shape.
    """
    halves = bits_of(array)
    values = distinct(np.bincount(halves, minlength=PATTERNS))
    palette = table(values, bits, array.dtype)
    index_of_pattern = np.zeros(PATTERNS, np.uint8)
    index_of_pattern[values.patterns] = nearest(values, palette)[values.place]
    return palette, index_of_pattern[halves].reshape(array.shape)


def _kmeans(values: np.ndarray, count: np.ndarray, k: int) -> np.ndarray:
    """Returns k ascending centers of ascending values that occur `count` times each, the values if there are fewer."""
    if len(values) <= k:
        return np.append(values, np.full(k - len(values), values[-1]))
    total, moment = np.cumsum(count), np.cumsum(count * values)
    # Where the density is smooth, the density of the best centers is its cube root (Panter and Dite 1951).
    density = np.cumsum(np.cbrt(count / np.gradient(values)) * np.gradient(values))
    centers: np.ndarray = np.interp((np.arange(k) + 0.5) / k * density[-1], density, values)
    for _ in range(_ROUNDS):
        ends = np.searchsorted(values, (centers[1:] + centers[:-1]) / 2)
        weight = np.diff(np.concatenate([[0.0], total[ends - 1] * (ends > 0), [total[-1]]]))
        sums = np.diff(np.concatenate([[0.0], moment[ends - 1] * (ends > 0), [moment[-1]]]))
        moved = np.where(weight > 0, sums / np.maximum(weight, 1), centers)
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers
