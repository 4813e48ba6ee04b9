"""MIL's compressed constants made dense: palettes, scales and sparsity, in the forms of iOS 16 and of iOS 18.

Parameters have MIL's names; arrays hold one element each, whatever their packing in the file.
"""

import math

import mlx.core as mx
import numpy as np

from .layers import Array, ints
from .program import unpack


def constexpr_cast(source_val: Array, output_dtype: str) -> Array:
    """Returns the same numbers; the result's declared type says how they are stored."""
    return source_val


def constexpr_lut_to_dense(
    indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None
) -> Array:
    """Looks indices up in a palette: packed indices of a given shape (iOS 16), or a palette for each group (iOS 18).

    iOS 16: lut (2^bits,), indices as packed bytes. iOS 18: lut (*groups, palette, vector), where groups divide the
    shape of `indices`; the entries of a vector lie along `vector_axis`.
    """
    if shape is not None:
        bits = lut.size.bit_length() - 1
        unpacked = unpack(np.array(indices), f"uint{bits}", tuple(ints(shape)))
        return mx.take(lut, mx.array(unpacked))
    groups, (palette, vector) = lut.shape[:-2], lut.shape[-2:]
    first = mx.arange(math.prod(groups)).reshape(groups) * palette  # of each group's palette among all entries
    entries = _spread(first, indices.shape) + indices.astype(mx.int32)
    y = mx.take(lut.reshape(-1, vector), entries, axis=0)
    if vector_axis is None or vector == 1:
        return y.reshape(indices.shape)
    axis = int(vector_axis) % indices.ndim
    y = mx.moveaxis(y, -1, axis + 1)
    return y.reshape(*[n * (vector if i == axis else 1) for i, n in enumerate(indices.shape)])


def constexpr_affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> Array:
    """Computes scale (data - zero point), where both are scalars or have one entry for each index of an axis."""
    shape = [-1 if i == int(axis) % quantized_data.ndim else 1 for i in range(quantized_data.ndim)]
    data, zero = quantized_data.astype(mx.float32), zero_point.astype(mx.float32)
    return scale.reshape(shape if scale.size > 1 else ()) * (data - zero.reshape(shape if zero.size > 1 else ()))


def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """Computes scale (data - offset), with a scale and an offset for each block of equal size."""
    y = data.astype(mx.float32)
    if offset is not None:
        y = y - _spread(offset.astype(mx.float32), data.shape)
    return _spread(scale, data.shape) * y


def constexpr_sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """Puts the data, in order, where the mask is one, and zeros elsewhere; iOS 16 has the mask as packed bits."""
    bits = np.array(mask) if shape is None else unpack(np.array(mask), "uint1", tuple(ints(shape)))
    dense = np.zeros(bits.shape, np.array(nonzero_data).dtype)
    dense[bits != 0] = np.array(nonzero_data)
    return mx.array(dense)


def constexpr_lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Array | None = None
) -> tuple[Array, Array]:
    """Returns (mask, data at its ones) of the result of constexpr_lut_to_dense for the dense indices."""
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    mask = indices_mask if vector_axis is None else mx.repeat(indices_mask, lut.shape[-1], axis=int(vector_axis))
    return mask, _at_ones(constexpr_lut_to_dense(indices, lut, None, vector_axis), mask)


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, Array]:
    """Returns (mask, data at its ones) of the result of constexpr_blockwise_shift_scale for the dense data."""
    data = constexpr_sparse_to_dense(nonzero_data, data_mask)
    return data_mask, _at_ones(constexpr_blockwise_shift_scale(data, scale, offset), data_mask)


def _spread(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Repeats an array with one number for each block into one with the given shape."""
    for axis, n in enumerate(shape):
        if blocks.shape[axis] not in (1, n):
            blocks = mx.repeat(blocks, n // blocks.shape[axis], axis=axis)
    return blocks


def _at_ones(dense: Array, mask: Array) -> Array:
    return mx.array(np.array(dense)[np.array(mask) != 0])
