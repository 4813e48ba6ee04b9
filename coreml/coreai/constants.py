"""Compressed weights in Core AI: palettes, scaled integers and sparse weights as operations on small constants."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..compression.constants import Constant, Palette, Scaled, Sparse
from ..compression.schemes import Compressor
from .coreai_core import Value, attribute_of, constant, constant_of, operations, packed_constant
from .emitter import Compress


def compress(describe: Compressor) -> Compress:
    """Returns what adds the weights that `describe` compresses, for the emitter of one module.

    A weight is described once: the functions after the first take the constants that the module has. What is kept of a
    weight between them are references to those, no numbers.
    """
    forms: dict[tuple[str, tuple[int, ...]], _Form | None] = {}

    def weight(parameter: str, array: np.ndarray) -> Callable[[Sequence[int]], Value] | None:
        """Returns what adds a weight with its axes permuted, or None where it stays as it is."""
        key = (parameter, array.shape)
        if key not in forms:
            description = describe(parameter, array)
            forms[key] = None if description is None else _Form(parameter, describe, description)
        form = forms[key]
        return None if form is None else lambda order: form.add(array, tuple(order))

    return weight


class _Form:
    """One compressed weight of a module, by the order of its axes."""

    def __init__(self, parameter: str, describe: Compressor, description: Constant):
        self._parameter, self._describe = parameter, describe
        self._first: Constant | None = description  # until it is in the module
        self._stored: dict[tuple[int, ...], tuple[type, list[Any]]] = {}

    def add(self, array: np.ndarray, order: tuple[int, ...]) -> Value:
        """Adds the dense value of a weight; array: its numbers, for an order of axes that is new."""
        if order not in self._stored:
            description = self._first or self._describe(self._parameter, array)
            assert description is not None, "a weight is compressed in every order or in none"
            self._first = None
            parts, dense = _FORMS[type(description)]
            values = parts(description, order)
            self._stored[order] = (type(description), [attribute_of(value) for value in values])
            return dense(*values)
        kind, attributes = self._stored[order]
        return _FORMS[kind][1](*map(constant_of, attributes))


def _palette(description: Palette, order: Sequence[int]) -> tuple[Value, ...]:
    indices = description.indices.transpose(order)
    runs = [1] * indices.ndim
    runs[list(order).index(0)] = len(description.table)  # where the outputs are
    return _packed(indices, description.bits), constant(description.table.reshape(*runs, -1, 1))


def _from_palette(indices: Value, table: Value) -> Value:
    return operations.lut_to_dense(indices, table, constant(np.int16(0)))


def _scaled(description: Scaled, order: Sequence[int]) -> tuple[Value, ...]:
    scale = np.ascontiguousarray(description.scale.transpose(order))
    zeros = np.zeros(scale.shape, np.int8)
    return (
        _packed(description.numbers.transpose(order), description.bits, signed=True),
        constant(scale),
        packed_constant(zeros, description.bits, signed=True),
        constant(zeros.astype(scale.dtype)),
    )


def _sparse(description: Sparse, order: Sequence[int]) -> tuple[Value, ...]:
    mask = np.ascontiguousarray(description.mask.transpose(order))
    return constant(description.dense().transpose(order)[mask != 0]), packed_constant(mask, 1)


def _from_sparse(values: Value, mask: Value) -> Value:
    return operations.sparse_with_bitmask_to_dense(operations.build_sparse_with_bitmask(values, mask))


def _packed(array: np.ndarray, bits: int, signed: bool = False) -> Value:
    return packed_constant(np.ascontiguousarray(array), bits, signed)


# description -> (its constants, by the permutation of its axes; the dense value of those constants)
_FORMS: dict[type, tuple[Callable[[Any, Sequence[int]], tuple[Value, ...]], Callable[..., Value]]] = {
    Palette: (_palette, _from_palette),
    Scaled: (_scaled, operations.blockwise_shift_scale),
    Sparse: (_sparse, _from_sparse),
}
