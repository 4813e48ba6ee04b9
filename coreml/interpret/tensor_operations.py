"""MIL's operations that move numbers: shapes, slices, gathers, padding and sequences.

Parameters have MIL's names and defaults. `operations` has the table.
"""

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from .layers import Array, ints


def reshape(x: Array, shape: Array) -> Array:
    """Returns the same numbers in another shape; 0 keeps an axis, -1 stands for the size that is left."""
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(ints(shape))])


def transpose(x: Array, perm: Array) -> Array:
    """Returns x with its axes in another order."""
    return x.transpose(ints(perm))


def expand_dims(x: Array, axes: Array) -> Array:
    """Inserts axes of size one."""
    return mx.expand_dims(x, ints(axes))


def squeeze(x: Array, axes: Array | None = None) -> Array:
    """Removes all axes of size one, or those of them that `axes` lists."""
    over = range(x.ndim) if axes is None else ints(axes)
    return mx.squeeze(x, [a for a in over if x.shape[a] == 1])


def flatten2d(x: Array, axis: Array | int = 1) -> Array:
    """Merges the axes before `axis` into one, and those from it on into another."""
    return x.reshape(math.prod(x.shape[: int(axis)]), -1)


def split(
    x: Array, axis: Array, num_splits: Array | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    """Cuts x along an axis into pieces of the given sizes, or of equal sizes."""
    if split_sizes is None:
        assert num_splits is not None
        return tuple(mx.split(x, int(num_splits), axis=int(axis)))
    return tuple(mx.split(x, np.cumsum(ints(split_sizes))[:-1].tolist(), axis=int(axis)))


def concat(values: tuple[Array, ...], axis: Array, interleave: bool = False) -> Array:
    """Joins arrays along an axis, one after the other or interleaved."""
    if not interleave:
        return mx.concatenate([v.reshape(-1) if v.ndim == 0 else v for v in values], axis=int(axis))
    at = int(axis) % values[0].ndim
    return mx.stack(list(values), axis=at + 1).flatten(at, at + 1)


def stack(values: tuple[Array, ...], axis: Array) -> Array:
    """Joins arrays of one shape along a new axis."""
    return mx.stack(list(values), axis=int(axis))


def _slices(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None,
    begin_mask: Array | None,
    end_mask: Array | None,
    squeeze_mask: Array | None,
) -> tuple[slice | int, ...]:
    def flags(mask: Array | None) -> list[bool]:
        """Returns a mask as booleans, all false without one."""
        return [False] * x.ndim if mask is None else [bool(m) for m in ints(mask)]

    steps = [1] * x.ndim if stride is None else ints(stride)
    ranges = zip(ints(begin), ints(end), steps, flags(begin_mask), flags(end_mask), flags(squeeze_mask), strict=True)
    return tuple(
        (0 if from_start else first)
        if squeeze
        else slice(None if from_start else first, None if to_end else last, step)
        for first, last, step, from_start, to_end, squeeze in ranges
    )


def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """Returns x[begin:end:stride] on every axis; masks stand for the ends, or for a single index."""
    return x[_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)]


def slice_update(
    x: Array,
    update: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """Returns x with `update` in the place of what slice_by_index would return."""
    y = mx.array(x)
    y[_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)] = update
    return y


def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """Returns `size` entries from `begin` on every axis; -1 stands for all that follow."""
    starts = [b % n for b, n in zip(ints(begin), x.shape, strict=True)]
    return x[tuple(slice(b, None if s == -1 else b + s) for b, s in zip(starts, ints(size), strict=True))]


def _within(indices: Array, size: int) -> Array:
    """Returns non-negative indices; ValueError beyond the ends, where a device may return anything."""
    at = indices.astype(mx.int32)
    if at.size and not bool(((at >= -size) & (at < size)).all()):
        raise ValueError(f"indices from {at.min().item()} to {at.max().item()} into {size} entries")
    return mx.where(at < 0, at + size, at)


def _batched(function: Callable[[Array, Array], Array], batch_dims: int) -> Callable[[Array, Array], Array]:
    for _ in range(batch_dims):
        function = mx.vmap(function)
    return function


def gather(
    x: Array, indices: Array, axis: Array | int = 0, batch_dims: Array | int = 0, validate_indices: bool = False
) -> Array:
    """Returns the entry of an axis for each index; the first `batch_dims` axes of both are matched."""
    batch, at = int(batch_dims), int(axis) % x.ndim
    return _batched(lambda a, i: mx.take(a, i, axis=at - batch), batch)(x, _within(indices, x.shape[at]))


def gather_along_axis(x: Array, indices: Array, axis: Array | int = 0, validate_indices: bool = False) -> Array:
    """Returns entries along an axis as numpy.take_along_axis does."""
    return mx.take_along_axis(x, _within(indices, x.shape[int(axis)]), axis=int(axis))


def gather_nd(x: Array, indices: Array, batch_dims: Array | int = 0, validate_indices: bool = False) -> Array:
    """Returns the entries at points, whose coordinates lie along the last axis of `indices`."""
    batch, depth = int(batch_dims), indices.shape[-1]
    shape = x.shape[batch : batch + depth]
    flat = mx.zeros(indices.shape[:-1], mx.int32)
    for k, n in enumerate(shape):
        flat = flat * n + _within(indices[..., k], n)
    merged = x.reshape(*x.shape[:batch], math.prod(shape), *x.shape[batch + depth :])
    return _batched(lambda a, i: mx.take(a, i, axis=0), batch)(merged, flat)


def tile(x: Array, reps: Array) -> Array:
    """Repeats x along every axis, `reps` times each."""
    return mx.tile(x, ints(reps))


def reverse(x: Array, axes: Array | None = None) -> Array:
    """Reverses x along the given axes, or along all."""
    over = [a % x.ndim for a in (range(x.ndim) if axes is None else ints(axes))]
    return x[tuple(slice(None, None, -1 if i in over else 1) for i in range(x.ndim))]


def fill(shape: Array, value: Array | float = 0.0) -> Array:
    """Returns one value in a given shape."""
    return mx.full(ints(shape), value)


def fill_like(ref_tensor: Array, value: Array | float = 0.0) -> Array:
    """Returns one value in the shape of another tensor."""
    return mx.full(ref_tensor.shape, value)


def range_1d(start: Array, end: Array, step: Array) -> Array:
    """Returns the numbers from start to before end."""
    first, last, by = (np.array(a).item() for a in (start, end, step))
    return mx.array(np.arange(first, last, by)).astype(start.dtype)


def shape(x: Array) -> Array:
    """Returns the shape as an int32 vector."""
    return mx.array(x.shape, mx.int32)


def band_part(x: Array, lower: Array | int = -1, upper: Array | int = -1) -> Array:
    """Sets matrices to zero beyond so many diagonals below and above; -1 keeps all of them."""
    rows, columns = mx.arange(x.shape[-2])[:, None], mx.arange(x.shape[-1])
    low, high = int(lower), int(upper)
    inside = mx.logical_and((rows - columns <= low) | (low < 0), (columns - rows <= high) | (high < 0))
    return mx.where(inside, x, mx.zeros((), x.dtype))


def cumsum(x: Array, axis: Array | int = 0, exclusive: bool = False, reverse: bool = False) -> Array:
    """Returns running sums along an axis."""
    return mx.cumsum(x, axis=int(axis), reverse=bool(reverse), inclusive=not exclusive)


def one_hot(
    indices: Array,
    one_hot_vector_size: Array,
    axis: Array | int = -1,
    on_value: Array | int = 1,
    off_value: Array | int = 0,
) -> Array:
    """Returns a new axis with `on_value` at each index and `off_value` elsewhere."""
    hot = mx.expand_dims(indices, -1) == mx.arange(int(one_hot_vector_size))
    return mx.moveaxis(mx.where(hot, on_value, off_value), -1, int(axis))


def pad(x: Array, pad: Array, mode: str = "constant", constant_val: Array | float = 0.0) -> Array:
    """Pads the last axes with a value, mirrored, or with the values at their ends."""
    sizes = ints(pad)
    pairs = [(0, 0)] * (x.ndim - len(sizes) // 2) + list(zip(sizes[::2], sizes[1::2], strict=True))
    if mode == "constant":
        return mx.pad(x, pairs, constant_values=constant_val)
    for axis, pair in enumerate(pairs):
        if any(pair):
            places = np.arange(x.shape[axis])
            places = np.pad(places, pair, "reflect") if mode == "reflect" else np.pad(places, pair, "edge")
            x = mx.take(x, mx.array(places), axis=axis)
    return x


def pixel_shuffle(x: Array, upscale_factor: Array) -> Array:
    """Moves channels (B, C f^2, H, W) to space (B, C, f H, f W), in PyTorch's order."""
    (batch, channels, height, width), f = x.shape, int(upscale_factor)
    y = x.reshape(batch, channels // f**2, f, f, height, width).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(batch, channels // f**2, height * f, width * f)


def pixel_unshuffle(x: Array, downscale_factor: Array) -> Array:
    """Moves space (B, C, f H, f W) to channels (B, C f^2, H, W), in PyTorch's order."""
    (batch, channels, height, width), f = x.shape, int(downscale_factor)
    y = x.reshape(batch, channels, height // f, f, width // f, f).transpose(0, 1, 3, 5, 2, 4)
    return y.reshape(batch, channels * f**2, height // f, width // f)
