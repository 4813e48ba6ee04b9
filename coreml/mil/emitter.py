"""Operations and weights in MIL: what the rules of `coreml.lowering` emit into while coremltools builds a function."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mlx_sd.core.errors import InputError

from ..lowering.compression import SMALLEST, int8, palette
from .coremltools import mb, types

Weight = Callable[[str, np.ndarray], Any]  # weight(parameter's name, numbers) -> argument of an operation


class Emitter:
    """Adds operations to the MIL function that is being built, by the names of coremltools' Builder."""

    def __init__(self, weight: Weight):
        """weight(parameter's name, numbers) -> an operation's argument: see `weights`."""
        self.weight = weight

    def dtype(self, var: Any) -> np.dtype:
        """Returns the numpy type of a MIL variable's elements."""
        dtype: np.dtype = np.dtype(types.nptype_from_builtin(var.dtype))
        return dtype

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        """Returns the Builder's function of that name."""
        method: Callable[..., Any] = getattr(mb, operation)
        return method


def weights(compression: str | None, target: str) -> Weight:
    """Returns what turns a parameter's numbers into an operation's argument, by a name in COMPRESSIONS.

    Tensors of under 2048 numbers, and all without a compression, stay as they are. target: the oldest system, which
    decides the form of the constants. Raises InputError for another name.
    """
    if compression is None:
        return uncompressed
    if compression not in COMPRESSIONS:
        raise InputError(f"unknown compression {compression!r}; there are {', '.join(COMPRESSIONS)}")
    constant, ios18 = COMPRESSIONS[compression], target == "iOS18"
    return lambda _, array: constant(array, ios18) if array.size >= SMALLEST else array


def uncompressed(parameter: str, array: np.ndarray) -> Any:
    """Returns a parameter's numbers as they are, as an operation's argument."""
    return array


def _palettized(bits: int) -> Callable[[np.ndarray, bool], Any]:
    def constant(array: np.ndarray, ios18: bool) -> Any:
        """Adds a constant: a palette and its indices, packed into bytes before iOS 18."""
        lut, indices = palette(array, bits)
        if ios18:
            index_type = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
            return mb.constexpr_lut_to_dense(
                indices=indices.astype(index_type), lut=lut.reshape((1,) * array.ndim + (-1, 1))
            )
        digits = np.unpackbits(indices.reshape(-1, 1), axis=1, count=bits, bitorder="little")
        packed = np.packbits(digits, bitorder="little")
        return mb.constexpr_lut_to_dense(indices=packed, lut=lut, shape=np.array(array.shape, np.uint32))

    return constant


def _int8(array: np.ndarray, ios18: bool) -> Any:
    q, scale = int8(array)
    if ios18:
        return mb.constexpr_blockwise_shift_scale(data=q, scale=scale.reshape(-1, *(1,) * (array.ndim - 1)))
    return mb.constexpr_affine_dequantize(
        quantized_data=q, zero_point=np.zeros(len(scale), np.int8), scale=scale, axis=np.int32(0)
    )


# name -> constant(numbers, whether in the form of iOS 18), which adds a MIL constant
COMPRESSIONS: dict[str, Callable[[np.ndarray, bool], Any]] = {
    "palettize4": _palettized(4),
    "palettize6": _palettized(6),
    "palettize8": _palettized(8),
    "int8": _int8,
}
