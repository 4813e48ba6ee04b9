"""MIL's compressed constants made dense: palettes, scales and sparsity, in the forms of iOS 16 and of iOS 18."""

import math

import mlx.core as mx
import numpy as np

from .layers import Array, ints
from .program import unpack


def constexpr_cast(source_val: Array, output_dtype: str) -> Array:
    """The same numbers; the declared type says how they are held."""
    return source_val


def constexpr_lut_to_dense(
    indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None
) -> Array:
    """Indices looked up in one palette, packed ones of a given shape (iOS 16), or in one per group (iOS 18).

    iOS 18: lut (*groups, palette, vector), where groups divide the shape of `indices`; a vector goes along its axis.
    """
    if shape is not None:
        bits = lut.size.bit_length() - 1
        where = unpack(np.array(indices), f"uint{bits}", tuple(ints(shape)))
        return mx.take(lut, mx.array(where))
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
    """scale (data - zero point), both scalars or one per index of an axis."""
    shape = [-1 if i == int(axis) % quantized_data.ndim else 1 for i in range(quantized_data.ndim)]
    data, zero = quantized_data.astype(mx.float32), zero_point.astype(mx.float32)
    return scale.reshape(shape if scale.size > 1 else ()) * (data - zero.reshape(shape if zero.size > 1 else ()))


def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """scale (data - offset), one of each per block of equal size."""
    y = data.astype(mx.float32)
    if offset is not None:
        y = y - _spread(offset.astype(mx.float32), data.shape)
    return _spread(scale, data.shape) * y


def constexpr_sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """The data where the mask has a one, in order, and zeros elsewhere; the mask is packed bits on iOS 16."""
    bits = np.array(mask) if shape is None else unpack(np.array(mask), "uint1", tuple(ints(shape)))
    dense = np.zeros(bits.shape, np.array(nonzero_data).dtype)
    dense[bits != 0] = np.array(nonzero_data)
    return mx.array(dense)


def constexpr_lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Array | None = None
) -> tuple[Array, Array]:
    """Mask and data of what constexpr_lut_to_dense would make of the dense indices."""
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    mask = indices_mask if vector_axis is None else mx.repeat(indices_mask, lut.shape[-1], axis=int(vector_axis))
    return mask, _kept(constexpr_lut_to_dense(indices, lut, None, vector_axis), mask)


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, Array]:
    """Mask and data of what constexpr_blockwise_shift_scale would make of the dense data."""
    data = constexpr_sparse_to_dense(nonzero_data, data_mask)
    return data_mask, _kept(constexpr_blockwise_shift_scale(data, scale, offset), data_mask)


def _spread(blocks: Array, shape: tuple[int, ...]) -> Array:
    # One number per block -> one per element.
    for axis, n in enumerate(shape):
        if blocks.shape[axis] not in (1, n):
            blocks = mx.repeat(blocks, n // blocks.shape[axis], axis=axis)
    return blocks


def _kept(dense: Array, mask: Array) -> Array:
    return mx.array(np.array(dense)[np.array(mask) != 0])
