"""Smaller weights: a palette of 4, 6 or 8 bits, or int8 with a scale for each output channel."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mlx_sd.core.errors import InputError

from .lower import Weight
from .tools import mb, types

_SMALL = 2048  # numbers: below that there is nothing to gain, as coremltools sees it too
_ROUNDS = 60  # of Lloyd's algorithm; it has settled long before


def plain(name: str, array: np.ndarray) -> Any:
    """The weight as it is."""
    return array


def choose(name: str | None, target: str) -> Weight:
    """What `lower` does with weights, by the name of a way to compress them; None leaves them as they are."""
    if name is None:
        return plain
    if name not in WAYS:
        raise InputError(f"unknown compression {name!r}; there are {', '.join(WAYS)}")
    way, modern = WAYS[name], target == "iOS18"
    return lambda _, array: way(array, modern) if array.size >= _SMALL else array


def palette(array: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(2^bits values, index of each number's value): k-means over all numbers of a tensor.

    One-dimensional k-means over the distinct float16 values, weighted by how often each occurs: there are at most
    65,536, however large the tensor. Indices have the array's shape.
    """
    halves = np.ascontiguousarray(array, np.float16).view(np.uint16).ravel()
    count = np.bincount(halves, minlength=1 << 16)
    patterns = np.flatnonzero(count)
    values, place = np.unique(patterns.astype(np.uint16).view(np.float16).astype(np.float64), return_inverse=True)
    count = np.bincount(place, count[patterns])  # two patterns mean zero
    centers = _kmeans(values, count, 1 << bits)
    nearest = np.searchsorted((centers[1:] + centers[:-1]) / 2, values)[place]
    of_pattern = np.zeros(1 << 16, np.uint8)
    of_pattern[patterns] = nearest
    return centers.astype(array.dtype), of_pattern[halves].reshape(array.shape)


def _kmeans(values: np.ndarray, count: np.ndarray, k: int) -> np.ndarray:
    """k centers, ascending, of weighted values that ascend; no fewer values are needed."""
    if len(values) <= k:
        return np.append(values, np.full(k - len(values), values[-1]))
    total, moment = np.cumsum(count), np.cumsum(count * values)
    # Where a smooth density is concerned, the best centers lie as the cube root of it (Panter and Dite 1951).
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


def _palettize(bits: int) -> Callable[[np.ndarray, bool], Any]:
    def way(array: np.ndarray, modern: bool) -> Any:
        lut, indices = palette(array, bits)
        if modern:
            small = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
            return mb.constexpr_lut_to_dense(
                indices=indices.astype(small), lut=lut.reshape((1,) * array.ndim + (-1, 1))
            )
        digits = np.unpackbits(indices.reshape(-1, 1), axis=1, count=bits, bitorder="little")
        packed = np.packbits(digits, bitorder="little")
        return mb.constexpr_lut_to_dense(indices=packed, lut=lut, shape=np.array(array.shape, np.uint32))

    return way


def _int8(array: np.ndarray, modern: bool) -> Any:
    """w = scale * q, with a scale for each output channel."""
    numbers = array.astype(np.float32).reshape(array.shape[0], -1)
    scale = np.maximum(np.abs(numbers).max(axis=1) / 127, np.finfo(np.float16).tiny).astype(array.dtype)
    q = np.clip(np.rint(numbers / scale[:, None].astype(np.float32)), -127, 127).astype(np.int8).reshape(array.shape)
    if modern:
        return mb.constexpr_blockwise_shift_scale(data=q, scale=scale.reshape(-1, *(1,) * (array.ndim - 1)))
    return mb.constexpr_affine_dequantize(
        quantized_data=q, zero_point=np.zeros(len(scale), np.int8), scale=scale, axis=np.int32(0)
    )


WAYS: dict[str, Callable[[np.ndarray, bool], Any]] = {
    "palettize4": _palettize(4),
    "palettize6": _palettize(6),
    "palettize8": _palettize(8),
    "int8": _int8,
}
