"""Operations and weights in MIL: what the rules of `coreml.lowering` emit into while coremltools builds a function."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mlx_sd.core.errors import InputError

from ..compression import schemes
from ..compression.constants import Palette, Scaled, Sparse, pack
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


def weights(compression: str | None, target: str, part: str = "unet") -> Weight:
    """Returns what turns a parameter's numbers into an operation's argument, by a name that `schemes.compressor` takes.

    target: the oldest system, which decides the form of the constants. part: the network that the parameters are of.
    Raises InputError for another name, and for a compression that the target does not have.
    """
    compress, ios18 = schemes.compressor(compression, part), target not in ("iOS16", "iOS17")
    if compression is not None and not ios18:
        _check_target(compression, target)

    def weight(parameter: str, array: np.ndarray) -> Any:
        """Returns the compressed constant, or the numbers where they stay as they are."""
        constant = compress(parameter, array)
        return array if constant is None else _FORMS[type(constant)](constant, ios18)

    return weight


def uncompressed(parameter: str, array: np.ndarray) -> Any:
    """Returns a parameter's numbers as they are, as an operation's argument."""
    return array


def _check_target(compression: str, target: str) -> None:
    """Raises InputError for 3 bits, groups and int4, which came with iOS 18."""
    if compression.endswith(".json"):
        if 3 in schemes.mixed(compression).bits.values():
            raise InputError(f"{compression} has layers of 3 bits, which need --target iOS18, not {target}")
        return
    scheme = schemes.parse(compression)
    if scheme.group or (scheme.kind, scheme.number) in (("palettize", 3), ("int", 4)):
        raise InputError(f"{compression} needs --target iOS18, not {target}")


def _palette(constant: Palette, ios18: bool) -> Any:
    """Adds palettes and their indices, packed into bytes before iOS 18."""
    shape = constant.indices.shape
    if ios18:
        lut = constant.table.reshape(len(constant.table), *(1,) * (len(shape) - 1), -1, 1)
        return mb.constexpr_lut_to_dense(indices=_narrow(constant.indices, f"uint{constant.bits}"), lut=lut)
    indices = pack(constant.indices, constant.bits)
    return mb.constexpr_lut_to_dense(indices=indices, lut=constant.table[0], shape=np.array(shape, np.uint32))


def _scaled(constant: Scaled, ios18: bool) -> Any:
    if ios18:
        data = _narrow(constant.numbers, f"int{constant.bits}")
        return mb.constexpr_blockwise_shift_scale(data=data, scale=constant.scale)
    scale = constant.scale.ravel()
    return mb.constexpr_affine_dequantize(
        quantized_data=constant.numbers, zero_point=np.zeros(len(scale), np.int8), scale=scale, axis=np.int32(0)
    )


def _sparse(constant: Sparse, ios18: bool) -> Any:
    if ios18:
        return mb.constexpr_sparse_to_dense(nonzero_data=constant.values, mask=_narrow(constant.mask, "uint1"))
    shape = np.array(constant.mask.shape, np.uint32)
    return mb.constexpr_sparse_to_dense(nonzero_data=constant.values, mask=pack(constant.mask, 1), shape=shape)


def _narrow(array: np.ndarray, name: str) -> np.ndarray:
    """Returns integers in the type by which coremltools tells how many bits they have."""
    return array.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


# description -> constant(description, whether in the form of iOS 18), which adds a MIL constant
_FORMS: dict[type, Callable[[Any, bool], Any]] = {Palette: _palette, Scaled: _scaled, Sparse: _sparse}
