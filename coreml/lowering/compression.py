"""Smaller weights as numbers: palettes of 4, 6 or 8 bits, and int8 with a scale for each output channel."""

import numpy as np

SMALLEST = 2048  # numbers in a tensor that is compressed; smaller ones gain nothing, and coremltools leaves them too
_ROUNDS = 60  # of Lloyd's algorithm; it converges long before


def palette(array: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (2^bits values in ascending order, index of each number's value), by k-means over a tensor's numbers.

    The values have the array's dtype, the indices are uint8 in its shape. One-dimensional k-means runs over the
    distinct float16 values, weighted by how often each occurs: there are at most 65,536, however large the tensor.
    """
    halves = np.ascontiguousarray(array, np.float16).view(np.uint16).ravel()
    count = np.bincount(halves, minlength=1 << 16)
    patterns = np.flatnonzero(count)
    values, place = np.unique(patterns.astype(np.uint16).view(np.float16).astype(np.float64), return_inverse=True)
    count = np.bincount(place, count[patterns])  # two bit patterns are zero
    centers = _kmeans(values, count, 1 << bits)
    nearest = np.searchsorted((centers[1:] + centers[:-1]) / 2, values)[place]
    index_of_pattern = np.zeros(1 << 16, np.uint8)
    index_of_pattern[patterns] = nearest
    return centers.astype(array.dtype), index_of_pattern[halves].reshape(array.shape)


def int8(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (q, scale) with array = scale q to half a step: q int8 in the array's shape, scale (outputs,)."""
    numbers = array.astype(np.float32).reshape(array.shape[0], -1)
    scale = np.maximum(np.abs(numbers).max(axis=1) / 127, np.finfo(np.float16).tiny).astype(array.dtype)
    q = np.clip(np.rint(numbers / scale[:, None].astype(np.float32)), -127, 127).astype(np.int8).reshape(array.shape)
    return q, scale


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
