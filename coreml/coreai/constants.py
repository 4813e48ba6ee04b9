"""Compressed weights in Core AI: palettes, scaled integers and sparse weights as operations on small constants."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..compression.constants import Palette, Scaled, Sparse
from ..compression.schemes import Compressor
from .coreai_core import Value, constant, operations, packed_constant
from .emitter import Compress


def compress(describe: Compressor) -> Compress:
    """Returns what adds the weights that `describe` compresses, for an emitter."""

    def weight(parameter: str, array: np.ndarray) -> Callable[[Sequence[int]], Value] | None:
        """Returns what adds a weight with its axes permuted, or None where it stays as it is."""
        description = describe(parameter, array)
        return None if description is None else partial(_FORMS[type(description)], description)

    return weight


def _palette(description: Palette, order: Sequence[int]) -> Value:
    indices = description.indices.transpose(order)
    runs = [1] * indices.ndim
    runs[list(order).index(0)] = len(description.table)  # where the outputs are
    table = constant(description.table.reshape(*runs, -1, 1))
    return operations.lut_to_dense(_packed(indices, description.bits), table, constant(np.int16(0)))


def _scaled(description: Scaled, order: Sequence[int]) -> Value:
    scale = np.ascontiguousarray(description.scale.transpose(order))
    zeros = np.zeros(scale.shape, np.int8)
    return operations.blockwise_shift_scale(
        _packed(description.numbers.transpose(order), description.bits, signed=True),
        constant(scale),
        packed_constant(zeros, description.bits, signed=True),
        constant(zeros.astype(scale.dtype)),
    )


def _sparse(description: Sparse, order: Sequence[int]) -> Value:
    mask = np.ascontiguousarray(description.mask.transpose(order))
    values = constant(description.dense().transpose(order)[mask != 0])
    sparse = operations.build_sparse_with_bitmask(values, packed_constant(mask, 1))
    return operations.sparse_with_bitmask_to_dense(sparse)


def _packed(array: np.ndarray, bits: int, signed: bool = False) -> Value:
    return packed_constant(np.ascontiguousarray(array), bits, signed)


# description -> form(description, permutation), which adds a dense value
_FORMS: dict[type, Callable[[Any, Sequence[int]], Value]] = {Palette: _palette, Scaled: _scaled, Sparse: _sparse}
