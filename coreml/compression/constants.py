"""Descriptions of compressed weights: what an emitter writes, and the dense numbers that it stands for.

Weights have their outputs first and their inputs second: (outputs, inputs) or (outputs, inputs, height, width). An
emitter that stores another order moves the axes of the arrays alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

_TABLE_ENTRY = 2  # bytes of an entry of a palette, a scale, or a value that is stored as it is: float16


@dataclass(frozen=True)
class Palette:
    """A weight as indices into palettes, one for each run of outputs of equal length."""

    indices: np.ndarray  # uint8, in the weight's shape
    table: np.ndarray  # (runs of outputs, 2^bits), of the weight's dtype, ascending
    bits: int

    def dense(self) -> np.ndarray:
        """Returns the weight as a dense array."""
        runs = self.indices.reshape(len(self.table), -1)
        return np.take_along_axis(self.table, runs.astype(np.intp), axis=1).reshape(self.indices.shape)

    @property
    def bytes(self) -> int:
        """Returns the bytes of packed indices and float16 palettes."""
        return packed(self.indices.size, self.bits) + _TABLE_ENTRY * self.table.size


@dataclass(frozen=True)
class Scaled:
    """A weight as scale * integer, with a scale for each output and each run of inputs of equal length."""

    numbers: np.ndarray  # int8, from -127 to 127 or -7 to 7, in the weight's shape
    scale: np.ndarray  # (outputs, runs of inputs, 1, ...), of the weight's dtype
    bits: int

    def dense(self) -> np.ndarray:
        """Returns the weight as a dense array."""
        scale = np.repeat(self.scale, self.numbers.shape[1] // self.scale.shape[1], axis=1)
        dense: np.ndarray = scale * self.numbers.astype(self.scale.dtype)
        return dense

    @property
    def bytes(self) -> int:
        """Returns the bytes of packed integers and float16 scales."""
        return packed(self.numbers.size, self.bits) + _TABLE_ENTRY * self.scale.size


@dataclass(frozen=True)
class Sparse:
    """A weight whose smallest numbers are zero: a mask, and the others in their order."""

    mask: np.ndarray  # uint8 of zeros and ones, in the weight's shape
    values: np.ndarray  # (ones of the mask,), of the weight's dtype

    def dense(self) -> np.ndarray:
        """Returns the weight as a dense array."""
        dense = np.zeros(self.mask.shape, self.values.dtype)
        dense[self.mask != 0] = self.values
        return dense

    @property
    def bytes(self) -> int:
        """Returns the bytes of the packed mask and the float16 values."""
        return packed(self.mask.size, 1) + _TABLE_ENTRY * self.values.size


Constant = Palette | Scaled | Sparse


def packed(count: int, bits: int) -> int:
    """Returns the bytes of `count` elements of `bits` bits, packed without gaps."""
    return -(-count * bits // 8)


def pack(elements: np.ndarray, bits: int) -> np.ndarray:
    """Returns elements of `bits` bits packed into bytes (uint8), the first element in the lowest bits.

    elements: integers in two's complement, of which the lowest `bits` bits count.
    """
    if bits == 8:
        return elements.astype(np.int16).astype(np.uint8).ravel()
    digits = np.unpackbits(elements.astype(np.int16).astype(np.uint8).reshape(-1, 1), axis=1, bitorder="little")
    return np.packbits(digits[:, :bits], bitorder="little")


def palette_bytes(shape: Sequence[int], bits: int, runs: int = 1) -> int:
    """Returns what `Palette.bytes` would be for a weight of this shape."""
    return packed(prod(shape), bits) + _TABLE_ENTRY * (runs << bits)
