"""Operations in Core AI: the methods that the rules of `coreml.lowering` call, with the names of coremltools' Builder.

Core AI's own operations have neither flags nor biases: a convolution becomes pad, conv2d and add. Sizes and
permutations are constants of uint32, axes and bounds of int32; there are no 64-bit types.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlx_sd.core.errors import InputError

from .coreai_core import Value, constant, operations

_TYPES = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}
_SIGMOID_GELU = 1.702  # gelu(x) is about x sigmoid(1.702 x) (Hendrycks and Gimpel 2016)


class Var(NamedTuple):
    """A value of Core AI with its shape and the numpy type of its elements."""

    value: Value
    shape: tuple[int, ...]
    dtype: np.dtype


class Weight(NamedTuple):
    """A network's weight: its shape, and what adds it as a constant with its axes permuted as numpy.transpose does."""

    shape: tuple[int, ...]
    add: Callable[[Sequence[int]], Value]


Compress = Callable[[str, np.ndarray], Callable[[Sequence[int]], Value] | None]


def uncompressed(parameter: str, array: np.ndarray) -> None:
    """Returns None: a weight of that name stays as it is."""


class Emitter:
    """Adds operations to the Core AI function that is being built."""

    def __init__(self, compress: Compress = uncompressed, fused_silu: bool = True):
        """Prepares an emitter.

        compress(parameter's name, numbers): what adds the constant in a compressed form, or None. fused_silu: silu is
        one operation, which the Neural Engine's compiler would compute in float32.
        """
        self._compress, self._fused_silu = compress, fused_silu

    def dtype(self, var: Var) -> np.dtype:
        """Returns the numpy type of a variable's elements."""
        return var.dtype

    def weight(self, parameter: str, array: np.ndarray) -> Weight | np.ndarray:
        """Returns a weight in its compressed form, or the array itself."""
        add = self._compress(parameter, array)
        return Weight(array.shape, add) if add else array

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        """Raises InputError: an operation of that name has no form here yet."""
        raise InputError(f"the operation {operation} has no form in Core AI")

    # -------------------------------------------------------------------------------------------- elementwise

    def add(self, x: Any, y: Any) -> Var:
        """Adds numbers; like all of two operands, they are broadcast as numpy does."""
        return _binary(operations.broadcasting_add, x, y)

    def sub(self, x: Any, y: Any) -> Var:
        """Subtracts y from x."""
        return _binary(operations.broadcasting_sub, x, y)

    def mul(self, x: Any, y: Any) -> Var:
        """Multiplies two tensors elementwise."""
        return _binary(operations.broadcasting_mul, x, y)

    def real_div(self, x: Any, y: Any) -> Var:
        """Divides x by y elementwise."""
        return _binary(operations.broadcasting_divide, x, y)

    def equal(self, x: Any, y: Any) -> Var:
        """Compares numbers for equality."""
        return _binary(operations.broadcasting_equal, x, y)._replace(dtype=np.dtype(np.bool_))

    def greater_equal(self, x: Any, y: Any) -> Var:
        """Compares x >= y, which is that y is not greater than x: there is no such operation."""
        greater = _binary(operations.broadcasting_greater, y, x)
        return Var(operations.not_(greater.value), greater.shape, np.dtype(np.bool_))

    def exp(self, x: Var) -> Var:
        """Takes the exponential function elementwise."""
        return _same(operations.exp, x)

    def sin(self, x: Var) -> Var:
        """Takes the sine elementwise."""
        return _same(operations.sin, x)

    def cos(self, x: Var) -> Var:
        """Takes the cosine elementwise."""
        return _same(operations.cos, x)

    def tanh(self, x: Var) -> Var:
        """Takes the hyperbolic tangent elementwise."""
        return _same(operations.tanh, x)

    def relu(self, x: Var) -> Var:
        """Takes the larger of x and 0 elementwise."""
        return _same(operations.relu, x)

    def silu(self, x: Var) -> Var:
        """Multiplies x by sigmoid(x)."""
        if self._fused_silu:
            return _same(operations.silu, x)
        return x._replace(value=operations.mul(x.value, operations.sigmoid(x.value)))

    def gelu(self, x: Var, mode: str) -> Var:
        """Multiplies x by the normal distribution's probability of being below x: EXACT, or SIGMOID_APPROXIMATION."""
        if mode == "EXACT":
            return _same(operations.gelu, x)
        slope = np.full((1,) * len(x.shape), _SIGMOID_GELU, x.dtype)
        return x._replace(value=operations.mul(x.value, operations.sigmoid(self.mul(x, slope).value)))

    def cast(self, x: Var, dtype: str) -> Var:
        """Converts numbers to the type of that name in `lower.CAST`."""
        return Var(operations.cast(x.value, _TYPES[dtype]), x.shape, np.dtype(_TYPES[dtype]))

    # -------------------------------------------------------------------------------------------- shapes

    def reshape(self, x: Var, shape: Sequence[int]) -> Var:
        """Reads the numbers in another shape."""
        return Var(operations.reshape(x.value, _sizes(shape)), tuple(shape), x.dtype)

    def transpose(self, x: Var, perm: Sequence[int]) -> Var:
        """Permutes the axes of a tensor."""
        return Var(operations.transpose(x.value, _sizes(perm)), tuple(x.shape[axis] for axis in perm), x.dtype)

    def tile(self, x: Var, reps: Sequence[int]) -> Var:
        """Repeats a tensor along each axis."""
        shape = tuple(size * count for size, count in zip(x.shape, reps, strict=True))
        return Var(operations.tile(x.value, _sizes(reps)), shape, x.dtype)

    def concat(self, values: Sequence[Any], axis: int) -> Var:
        """Joins tensors along an axis."""
        dtype = next(v.dtype for v in values if isinstance(v, Var))
        variables = [_variable(v, dtype) for v in values]
        axis %= len(variables[0].shape)
        size = sum(v.shape[axis] for v in variables)
        joined = operations.concat(_axis(axis), [v.value for v in variables])
        return Var(joined, _with_size(variables[0].shape, axis, size), dtype)

    def stack(self, values: Sequence[Any], axis: int) -> Var:
        """Joins tensors along a new axis, the last one; each is broadcast to the shape of all."""
        shape = np.broadcast_shapes(*(v.shape for v in values))
        if axis not in (-1, len(shape)):
            raise AssertionError("only a new last axis is ever asked for")
        dtype = next(v.dtype for v in values if isinstance(v, Var))
        columns = []
        for v in values:
            column = _variable(v, dtype)
            if column.shape != shape:
                column = Var(operations.broadcast_to(column.value, _sizes(shape)), shape, dtype)
            columns.append(self.reshape(column, (*shape, 1)))
        return self.concat(columns, -1)

    def split(
        self, x: Var, axis: int, num_splits: int | None = None, split_sizes: Sequence[int] | None = None
    ) -> list[Var]:
        """Cuts a tensor along an axis, into pieces of the given sizes, or that many equal ones."""
        sizes = split_sizes if split_sizes is not None else [x.shape[axis] // (num_splits or 1)] * (num_splits or 1)
        pieces = operations.split(x.value, _sizes(sizes), _axis(axis))
        return [Var(piece, _with_size(x.shape, axis, size), x.dtype) for piece, size in zip(pieces, sizes, strict=True)]

    def slice_by_index(self, x: Var, begin: Sequence[int], end: Sequence[int], stride: Sequence[int]) -> Var:
        """Takes the numbers from begin to before end of each axis, in steps of stride."""
        shape = tuple(len(range(*bounds)) for bounds in zip(begin, end, stride, strict=True))
        return Var(operations.slice_(x.value, _bounds(begin), _bounds(end), _bounds(stride)), shape, x.dtype)

    def pad(self, x: Var, pad: Sequence[int], mode: str, constant_val: Any) -> Var:
        """Puts a constant around a tensor; pad: (before, after) of each axis."""
        shape = tuple(size + pad[2 * i] + pad[2 * i + 1] for i, size in enumerate(x.shape))
        fill = constant(np.array(constant_val, x.dtype))
        return Var(operations.pad(x.value, _sizes(pad), fill, mode), shape, x.dtype)

    def upsample_nearest_neighbor(self, x: Var, scale_factor_height: int, scale_factor_width: int) -> Var:
        """Repeats each pixel of (B, C, H, W) by broadcasting: `interpolate` runs on the CPU where the rest does not."""
        batch, channels, height, width = x.shape
        rows = height * scale_factor_height
        y = self._repeated(x, (batch, channels, height, 1, width), 3, scale_factor_height)
        y = self._repeated(y, (batch, channels, rows, width, 1), 4, scale_factor_width)
        return self.reshape(y, (batch, channels, rows, width * scale_factor_width))

    def _repeated(self, x: Var, shape: tuple[int, ...], axis: int, count: int) -> Var:
        target = _with_size(shape, axis, count)
        return Var(operations.broadcast_to(self.reshape(x, shape).value, _sizes(target)), target, x.dtype)

    # -------------------------------------------------------------------------------------------- look-ups

    def gather(self, x: Any, indices: Any, axis: int) -> Var:
        """Looks up rows of a table."""
        if axis:
            raise AssertionError("only rows are ever looked up")
        rows = _variable(indices, np.dtype(np.int32))
        return self.gather_nd(x, self.reshape(rows, (*rows.shape, 1)))

    def gather_nd(self, x: Any, indices: Var) -> Var:
        """Looks up the places whose coordinates are along the last axis of `indices`."""
        shape = (*indices.shape[:-1], *x.shape[indices.shape[-1] :])
        value = x.value if isinstance(x, Var) else constant(x)
        return Var(operations.gather_nd(value, indices.value), shape, x.dtype)

    def reduce_argmax(self, x: Var, axis: int, keep_dims: bool) -> Var:
        """Finds the index of the first of the largest numbers, of float32: iOS 27.0 gets it wrong in float16."""
        if not keep_dims:
            raise AssertionError("the axis is kept, as MLX does")
        axis %= len(x.shape)
        place = operations.argmax(operations.cast(x.value, np.float32), _axis(axis))
        return Var(operations.cast(place, np.int32), _with_size(x.shape, axis, 1), np.dtype(np.int32))

    def reduce_argmin(self, x: Var, axis: int, keep_dims: bool) -> Var:
        """Finds the index of the first of the smallest numbers."""
        real = self.cast(x, "fp32")
        return self.reduce_argmax(self.mul(real, np.float32(-1)), axis, keep_dims)

    def reduce_mean(self, x: Var, axes: Sequence[int], keep_dims: bool) -> Var:
        """Takes means over axes."""
        if not keep_dims:
            raise AssertionError("the axes are kept, as Core AI does")
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        return Var(operations.reduce_mean(x.value, _bounds(axes)), shape, x.dtype)

    def reduce_log_sum_exp(self, x: Var, axes: Sequence[int], keep_dims: bool) -> Var:
        """Takes the logarithm of the sum of exponentials over axes, of numbers less their largest: none overflows."""
        if not keep_dims:
            raise AssertionError("the axes are kept, as Core AI does")
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        largest = Var(operations.reduce_max(x.value, _bounds(axes)), shape, x.dtype)
        total = Var(operations.reduce_sum(self.exp(self.sub(x, largest)).value, _bounds(axes)), shape, x.dtype)
        return self.add(_same(operations.log, total), largest)

    # -------------------------------------------------------------------------------------------- layers

    def conv(
        self,
        x: Var,
        weight: Any,
        strides: Sequence[int] = (1, 1),
        pad_type: str = "valid",
        pad: Sequence[int] = (0, 0, 0, 0),
        bias: np.ndarray | None = None,
    ) -> Var:
        """Convolves an image (B, C, H, W) with weights (out, C, kh, kw); pad: zeros at [top, bottom, left, right]."""
        padded = self.pad(x, [0, 0, 0, 0, *pad], "constant", 0) if any(pad) else x
        batch, _, height, width = padded.shape
        out, _, rows, columns = weight.shape
        value = operations.conv2d(
            padded.value, _constant(weight), _sizes(strides), _sizes((1, 1)), constant(np.uint32(1))
        )
        shape = (batch, out, (height - rows) // strides[0] + 1, (width - columns) // strides[1] + 1)
        y = Var(value, shape, x.dtype)
        return y if bias is None else self.add(y, bias.reshape(1, -1, 1, 1))

    def linear(self, x: Any, weight: Any, bias: np.ndarray | None = None) -> Var:
        """Multiplies vectors (..., in) by the transposed weights (out, in)."""
        x = _variable(x, x.dtype)
        matrix = Var(_constant(weight, (1, 0)), weight.shape[::-1], x.dtype)
        if len(x.shape) > 2:  # the ranks are equal, as in all broadcasting
            matrix = self.reshape(matrix, (*(1,) * (len(x.shape) - 2), *matrix.shape))
        y = self.matmul(x, matrix)
        return y if bias is None else self.add(y, bias.reshape(*(1,) * (len(x.shape) - 1), -1))

    def matmul(self, x: Var, y: Var, transpose_x: bool = False, transpose_y: bool = False) -> Var:
        """Multiplies matrices over all axes before the last two."""
        x, y = (self._turned(v) if turned else v for v, turned in ((x, transpose_x), (y, transpose_y)))
        batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        value = operations.broadcasting_batch_matmul(x.value, y.value)
        return Var(value, (*batch, x.shape[-2], y.shape[-1]), x.dtype)

    def _turned(self, x: Var) -> Var:
        axes = list(range(len(x.shape)))
        return self.transpose(x, [*axes[:-2], axes[-1], axes[-2]])

    def einsum(self, values: Sequence[Var], equation: str) -> Var:
        """Multiplies matrices that lie in tensors of four axes, as attention head by head writes them."""
        if equation != "nchw,nwhu->nchu" or values[0].shape[2] != 1:
            raise AssertionError(f"{equation} is not an equation of attention")
        (n, c, _, w), u = values[0].shape, values[1].shape[3]
        y = self.matmul(self.reshape(values[0], (n, c, w)), self.reshape(values[1], (n, w, u)))
        return self.reshape(y, (n, c, 1, u))

    def softmax(self, x: Var, axis: int) -> Var:
        """Normalizes exponentials along an axis."""
        return x._replace(value=operations.softmax(x.value, _axis(axis % len(x.shape))))

    def layer_norm(self, x: Var, axes: Sequence[int], epsilon: Any, gamma: Any = None, beta: Any = None) -> Var:
        """Normalizes mean and variance over axes, in float32 inside, then scales and shifts by `gamma` and `beta`."""
        axes = [axis % len(x.shape) for axis in axes]
        single = np.dtype(np.float32)
        real = x if x.dtype == single else self.cast(x, "fp32")
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        mean = Var(operations.reduce_mean(real.value, _bounds(axes)), shape, single)
        centered = self.sub(real, mean)
        variance = Var(
            operations.reduce_mean(operations.mul(centered.value, centered.value), _bounds(axes)), shape, single
        )
        shifted = self.add(variance, np.float32(epsilon))
        y = self.mul(centered, shifted._replace(value=operations.rsqrt(shifted.value)))
        if x.dtype != single:
            y = Var(operations.cast(y.value, x.dtype.type), y.shape, x.dtype)
        sizes = [x.shape[axis] if axis in axes else 1 for axis in range(len(x.shape))]
        for factor, operation in ((gamma, self.mul), (beta, self.add)):
            if factor is not None:
                y = operation(y, self._view(factor, sizes))
        return y

    def _view(self, x: Any, shape: Sequence[int]) -> Any:
        return self.reshape(x, shape) if isinstance(x, Var) else x.reshape(shape)


def _binary(operation: Callable[[Value, Value], Value], x: Any, y: Any) -> Var:
    """Emits an elementwise operation; numbers known at conversion take the other operand's type and rank."""
    dtype = next(v.dtype for v in (x, y) if isinstance(v, Var))
    rank = max(np.ndim(v) if not isinstance(v, Var) else len(v.shape) for v in (x, y))
    a, b = (_variable(v, dtype, rank) for v in (x, y))
    return Var(operation(a.value, b.value), np.broadcast_shapes(a.shape, b.shape), dtype)


def _variable(x: Any, dtype: np.dtype, rank: int = 0) -> Var:
    """Returns a variable as it is, and numbers known at conversion as a constant of that type and rank, or more."""
    if isinstance(x, Var):
        return x
    array = np.ascontiguousarray(np.asarray(x, dtype))
    if array.ndim < rank:
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    return Var(constant(array), array.shape, dtype)


def _constant(weight: Any, perm: Sequence[int] | None = None) -> Value:
    """Adds a weight, compressed or not, with its axes permuted."""
    order = tuple(perm) if perm is not None else tuple(range(len(weight.shape)))
    if isinstance(weight, Weight):
        return weight.add(order)
    return constant(np.ascontiguousarray(weight.transpose(order)))


def _same(operation: Callable[[Value], Value], x: Var) -> Var:
    return x._replace(value=operation(x.value))


def _with_size(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return tuple(size if i == axis else n for i, n in enumerate(shape))


def _sizes(numbers: Sequence[int]) -> Value:
    return constant(np.array(numbers, np.uint32))


def _bounds(numbers: Sequence[int]) -> Value:
    return constant(np.array(numbers, np.int32))


def _axis(axis: int) -> Value:
    return constant(np.int32(axis))
