"""What each MIL operation computes: one table, kind -> function, with MIL's parameter names and defaults.

Tensors arrive as MLX arrays, floating ones in float32 whatever their declared type; strings as str; `values` as a
tuple. The interpreter checks the result's shape and gives it its declared type. Source: the operations' definitions in
coremltools' documentation, iOS 15 to 18.
"""

from collections.abc import Callable

import mlx.core as mx

from mlx_sd.networks import cpu

from . import compressed_constants, layers, tensor_operations
from .layers import Array, ints

Implementation = Callable[..., Array | tuple[Array, ...]]


def _unary(function: Callable[[Array], Array]) -> Implementation:
    return lambda x: function(x)


def _binary(function: Callable[[Array, Array], Array]) -> Implementation:
    return lambda x, y: function(x, y)


def _reduction(function: Callable[..., Array]) -> Implementation:
    def reduce(x: Array, axes: Array | None = None, keep_dims: bool = False) -> Array:
        """Reduces the given axes, or all."""
        return function(x, axis=None if axes is None else ints(axes), keepdims=bool(keep_dims))

    return reduce


def _extreme(function: Callable[..., Array]) -> Implementation:
    def index(x: Array, axis: Array | int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Array:
        """Returns the index of the extreme along an axis."""
        return function(x, axis=int(axis), keepdims=bool(keep_dims))

    return index


def _identity(x: Array) -> Array:
    return x


def _const(val: Array) -> Array:
    return val


def _read_state(input: Array) -> Array:
    return input


def _write_state(input: Array, data: Array) -> Array:
    return data


def _log(x: Array, epsilon: Array | float = 1e-45) -> Array:
    return mx.log(x + epsilon)


def _rsqrt(x: Array, epsilon: Array | float = 1e-12) -> Array:
    return mx.rsqrt(x + epsilon)


def _inverse(x: Array, epsilon: Array | float = 1e-4) -> Array:
    return 1 / (x + epsilon)


def _clip(x: Array, alpha: Array, beta: Array) -> Array:
    return mx.minimum(mx.maximum(x, alpha), beta)


def _threshold(x: Array, alpha: Array) -> Array:
    return mx.maximum(x, alpha)


def _leaky_relu(x: Array, alpha: Array) -> Array:
    return mx.where(x >= 0, x, alpha * x)


def _elu(x: Array, alpha: Array) -> Array:
    return mx.where(x >= 0, x, alpha * mx.expm1(x))


def _linear_activation(x: Array, alpha: Array, beta: Array) -> Array:
    return alpha * x + beta


def _sigmoid_hard(x: Array, alpha: Array, beta: Array) -> Array:
    return mx.clip(alpha * x + beta, 0, 1)


def _select(cond: Array, a: Array, b: Array) -> Array:
    return mx.where(cond, a, b)


def _cast(x: Array, dtype: str) -> Array:
    # Towards zero where a float becomes an integer; the declared type of the result does the rest.
    return x != 0 if dtype == "bool" else x


OPERATIONS: dict[str, Implementation] = {
    # constants
    "const": _const,
    "constexpr_affine_dequantize": compressed_constants.constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": compressed_constants.constexpr_blockwise_shift_scale,
    "constexpr_cast": compressed_constants.constexpr_cast,
    "constexpr_lut_to_dense": compressed_constants.constexpr_lut_to_dense,
    "constexpr_lut_to_sparse": compressed_constants.constexpr_lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": compressed_constants.constexpr_sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": compressed_constants.constexpr_sparse_to_dense,
    # layers
    "batch_norm": layers.batch_norm,
    "conv": layers.conv,
    "einsum": layers.einsum,
    "instance_norm": layers.instance_norm,
    "l2_norm": layers.l2_norm,
    "layer_norm": layers.layer_norm,
    "linear": layers.linear,
    "matmul": layers.matmul,
    "resize": layers.resize,
    "resize_bilinear": layers.resize_bilinear,
    "resize_nearest_neighbor": layers.resize_nearest_neighbor,
    "scaled_dot_product_attention": layers.scaled_dot_product_attention,
    "softmax": layers.softmax,
    "upsample_bilinear": layers.upsample_bilinear,
    "upsample_nearest_neighbor": layers.upsample_nearest_neighbor,
    # activations
    "elu": _elu,
    "gelu": layers.gelu,
    "leaky_relu": _leaky_relu,
    "linear_activation": _linear_activation,
    "relu": _unary(lambda x: mx.maximum(x, 0)),
    "relu6": _unary(lambda x: mx.clip(x, 0, 6)),
    "sigmoid": _unary(mx.sigmoid),
    "sigmoid_hard": _sigmoid_hard,
    "silu": _unary(cpu.silu),
    "softplus": _unary(lambda x: mx.logaddexp(x, mx.array(0.0))),
    "softsign": _unary(lambda x: x / (1 + mx.abs(x))),
    "threshold": _threshold,
    # one argument
    "abs": _unary(mx.abs),
    "cast": _cast,
    "ceil": _unary(mx.ceil),
    "clip": _clip,
    "cos": _unary(mx.cos),
    "erf": _unary(mx.erf),
    "exp": _unary(mx.exp),
    "exp2": _unary(lambda x: mx.power(2.0, x)),
    "floor": _unary(mx.floor),
    "identity": _identity,
    "inverse": _inverse,
    "log": _log,
    "logical_not": _unary(mx.logical_not),
    "round": _unary(mx.round),
    "rsqrt": _rsqrt,
    "sign": _unary(mx.sign),
    "sin": _unary(mx.sin),
    "sqrt": _unary(mx.sqrt),
    "square": _unary(mx.square),
    "tan": _unary(mx.tan),
    "tanh": _unary(mx.tanh),
    # two arguments
    "add": _binary(mx.add),
    "equal": _binary(mx.equal),
    "floor_div": _binary(mx.floor_divide),
    "greater": _binary(mx.greater),
    "greater_equal": _binary(mx.greater_equal),
    "less": _binary(mx.less),
    "less_equal": _binary(mx.less_equal),
    "logical_and": _binary(mx.logical_and),
    "logical_or": _binary(mx.logical_or),
    "logical_xor": _binary(mx.not_equal),
    "maximum": _binary(mx.maximum),
    "minimum": _binary(mx.minimum),
    "mod": _binary(mx.remainder),
    "mul": _binary(mx.multiply),
    "not_equal": _binary(mx.not_equal),
    "pow": _binary(mx.power),
    "real_div": _binary(mx.divide),
    "select": _select,
    "sub": _binary(mx.subtract),
    # reductions
    "cumsum": tensor_operations.cumsum,
    "reduce_argmax": _extreme(mx.argmax),
    "reduce_argmin": _extreme(mx.argmin),
    "reduce_l1_norm": _reduction(lambda x, **over: mx.sum(mx.abs(x), **over)),
    "reduce_l2_norm": _reduction(lambda x, **over: mx.sqrt(mx.sum(mx.square(x), **over))),
    "reduce_log_sum": _reduction(lambda x, **over: mx.log(mx.sum(x, **over))),
    "reduce_log_sum_exp": _reduction(mx.logsumexp),
    "reduce_max": _reduction(mx.max),
    "reduce_mean": _reduction(mx.mean),
    "reduce_min": _reduction(mx.min),
    "reduce_prod": _reduction(mx.prod),
    "reduce_sum": _reduction(mx.sum),
    "reduce_sum_square": _reduction(lambda x, **over: mx.sum(mx.square(x), **over)),
    # shapes, slices, gathers
    "band_part": tensor_operations.band_part,
    "concat": tensor_operations.concat,
    "expand_dims": tensor_operations.expand_dims,
    "fill": tensor_operations.fill,
    "fill_like": tensor_operations.fill_like,
    "flatten2d": tensor_operations.flatten2d,
    "gather": tensor_operations.gather,
    "gather_along_axis": tensor_operations.gather_along_axis,
    "gather_nd": tensor_operations.gather_nd,
    "one_hot": tensor_operations.one_hot,
    "pad": tensor_operations.pad,
    "pixel_shuffle": tensor_operations.pixel_shuffle,
    "pixel_unshuffle": tensor_operations.pixel_unshuffle,
    "range_1d": tensor_operations.range_1d,
    "reshape": tensor_operations.reshape,
    "reverse": tensor_operations.reverse,
    "shape": tensor_operations.shape,
    "slice_by_index": tensor_operations.slice_by_index,
    "slice_by_size": tensor_operations.slice_by_size,
    "slice_update": tensor_operations.slice_update,
    "split": tensor_operations.split,
    "squeeze": tensor_operations.squeeze,
    "stack": tensor_operations.stack,
    "tile": tensor_operations.tile,
    "transpose": tensor_operations.transpose,
    # states
    "read_state": _read_state,
    "write_state": _write_state,
}
