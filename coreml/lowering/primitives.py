"""Rules for MLX's own primitives, which lie between the networks' operations. Constants are computed at conversion."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from mlx_sd.core.errors import InputError
from mlx_sd.networks.graph import Node

from .layout import Order, Value, plain, transposed
from .lower import CAST, Lowering, Rule, is_constant

Numpy = Callable[..., np.ndarray]


def _common_order(*values: Value) -> Order:
    """Returns the storage order of the largest value; of equals, of one that is channel-first already."""
    variables = (v for v in values if not is_constant(v))
    return max(variables, key=lambda v: (math.prod(v.sizes), v.order[-1] != len(v.shape) - 1)).order


def _binary(operation: str, numpy: Numpy) -> Rule:
    def rule(lowering: Lowering, node: Node, a: Value, b: Value) -> Value:
        """Computes constants, or emits the operation in a common storage order."""
        if is_constant(a) and is_constant(b):
            return plain(np.asarray(numpy(lowering.array(a), lowering.array(b))))
        order = _common_order(a, b)
        arguments = [lowering.stored(value, order) for value in (a, b)]
        dtype = next(lowering.dtype_of(x) for x in arguments if not isinstance(x, np.ndarray))
        x, y = (x.astype(dtype) if isinstance(x, np.ndarray) else x for x in arguments)
        result = getattr(lowering.emit, operation)(x=x, y=y)
        return Value(result, tuple(int(size) for size in result.shape), order)

    return rule


def _unary(operation: str, numpy: Numpy) -> Rule:
    def rule(lowering: Lowering, node: Node, a: Value) -> Value:
        """Computes a constant, or emits the operation."""
        if is_constant(a):
            return plain(np.asarray(numpy(lowering.array(a))))
        return Value(getattr(lowering.emit, operation)(x=lowering.stored(a, a.order)), a.sizes, a.order)

    return rule


def _cast(lowering: Lowering, node: Node, a: Value) -> Value:
    dtype = np.dtype(lowering.dtype(node))
    var = lowering.stored(a, a.order)
    if lowering.dtype_of(var) == dtype:
        return a
    var = var.astype(dtype) if isinstance(var, np.ndarray) else lowering.emit.cast(x=var, dtype=CAST[dtype])
    return Value(var, a.sizes, a.order)


def _broadcast(lowering: Lowering, node: Node, a: Value) -> Value:
    # Operations broadcast by themselves: only the rank is raised.
    added = len(lowering.shape(node)) - len(a.shape)
    order = tuple(range(added)) + tuple(None if axis is None else axis + added for axis in a.order)
    return Value(a.var, (1,) * added + a.sizes, order)


def _identity(lowering: Lowering, node: Node, a: Value) -> Value:
    return a


def _reshape(lowering: Lowering, node: Node, a: Value) -> Value:
    return lowering.reshape(lowering.broadcast(a, lowering.graph.shapes[node.inputs[0]]), lowering.shape(node))


def _transpose(lowering: Lowering, node: Node, a: Value) -> Value:
    return transposed(a, list(node.attributes["perm"]))


def _concatenate(lowering: Lowering, node: Node, *values: Value) -> Value:
    axis = node.attributes["axis"]
    shapes = [lowering.graph.shapes[name] for name in node.inputs]
    values = tuple(lowering.broadcast(value, shape) for value, shape in zip(values, shapes, strict=True))
    if all(is_constant(v) for v in values):
        return plain(np.concatenate([lowering.array(v) for v in values], axis))
    order = _common_order(*values)
    y = lowering.emit.concat(values=[lowering.stored(v, order) for v in values], axis=order.index(axis))
    return Value(y, tuple(int(size) for size in y.shape), order)


def _split(lowering: Lowering, node: Node, a: Value) -> list[Value]:
    axis = node.attributes["axis"]
    ends = [*node.attributes["indices"], a.shape[axis]]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    pieces = lowering.emit.split(x=lowering.stored(a, a.order), split_sizes=sizes, axis=a.order.index(axis))
    return [Value(y, tuple(int(size) for size in y.shape), a.order) for y in pieces]


def _slice(lowering: Lowering, node: Node, a: Value) -> Value:
    begin, end, stride = (node.attributes[name] for name in ("begin", "end", "stride"))
    if is_constant(a):
        return plain(lowering.array(a)[tuple(slice(*s) for s in zip(begin, end, stride, strict=True))])

    def stored(values: Sequence[int], default: int) -> list[int]:
        """Returns values by axis in storage order."""
        return [default if axis is None else values[axis] for axis in a.order]

    y = lowering.emit.slice_by_index(
        x=lowering.stored(a, a.order), begin=stored(begin, 0), end=stored(end, 1), stride=stored(stride, 1)
    )
    return Value(y, tuple(int(size) for size in y.shape), a.order)


def _pad(lowering: Lowering, node: Node, a: Value, fill: Value) -> Value:
    axes = node.attributes["axes"]
    low, high = (dict(zip(axes, node.attributes[side], strict=True)) for side in ("low", "high"))
    amounts = [n for axis in a.order for n in ((low.get(axis, 0), high.get(axis, 0)) if axis is not None else (0, 0))]
    var = lowering.stored(a, a.order)
    value = lowering.array(fill).astype(lowering.dtype_of(var))[()]
    padded = lowering.emit.pad(x=var, pad=amounts, mode="constant", constant_val=value)
    if value == 0:
        lowering.note_padding(padded, var, amounts)
    return Value(padded, tuple(int(size) for size in padded.shape), a.order)


def _select(lowering: Lowering, node: Node, condition: Value, a: Value, b: Value) -> Value:
    return plain(np.where(lowering.array(condition), lowering.array(a), lowering.array(b)))


def _arange(lowering: Lowering, node: Node) -> Value:
    a = node.attributes
    return plain(np.arange(a["start"], a["stop"], a["step"]).astype(lowering.dtype(node)))


def _arg_reduce(lowering: Lowering, node: Node, a: Value) -> Value:
    operation = ("reduce_argmin", "reduce_argmax")[node.attributes["kind"]]
    var = lowering.stored(a, tuple(range(len(a.shape))))
    if lowering.dtype_of(var) == np.bool_:
        var = lowering.emit.cast(x=var, dtype="int32")
    return plain(getattr(lowering.emit, operation)(x=var, axis=node.attributes["axis"], keep_dims=True))


def _log_sum_exp(lowering: Lowering, node: Node, a: Value) -> Value:
    """Emits the logarithm of the sum of exponentials over the last axis, which is kept."""
    axis = a.order.index(len(a.shape) - 1)
    y = lowering.emit.reduce_log_sum_exp(x=lowering.stored(a, a.order), axes=[axis], keep_dims=True)
    return Value(y, tuple(int(size) for size in y.shape), a.order)


def _gather(lowering: Lowering, node: Node, a: Value, *indices: Value) -> Value:
    """Emits a look-up of rows; with several indices, of the places whose coordinates they are."""
    axes, shape = list(node.attributes["axes"]), lowering.shape(node)
    if axes != list(range(len(axes))):
        layer = lowering.graph.layer(node)
        raise InputError(f"an index into axes {axes} (in or after {layer}) cannot be lowered")
    x = lowering.stored(a, tuple(range(len(a.shape))))
    arrays = [lowering.stored(index, tuple(range(len(index.shape)))) for index in indices]
    if len(axes) == 1:
        return lowering.reshape(plain(lowering.emit.gather(x=x, indices=arrays[0], axis=0)), shape)
    coordinates = lowering.emit.stack(values=arrays, axis=-1)
    return lowering.reshape(plain(lowering.emit.gather_nd(x=x, indices=coordinates)), shape)


RULES: dict[str, Rule] = {
    "Add": _binary("add", np.add),
    "Subtract": _binary("sub", np.subtract),
    "Multiply": _binary("mul", np.multiply),
    "Divide": _binary("real_div", np.divide),
    "Equal": _binary("equal", np.equal),
    "GreaterEqual": _binary("greater_equal", np.greater_equal),
    "Exp": _unary("exp", np.exp),
    "Sin": _unary("sin", np.sin),
    "Cos": _unary("cos", np.cos),
    "Tanh": _unary("tanh", np.tanh),
    "Full": _identity,
    "AsType": _cast,
    "Broadcast": _broadcast,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Unflatten": _reshape,
    "ExpandDims": _reshape,
    "Squeeze": _reshape,
    "Transpose": _transpose,
    "Concatenate": _concatenate,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Select": _select,
    "Arange": _arange,
    "ArgReduce": _arg_reduce,
    "LogSumExp": _log_sum_exp,
    "Gather": _gather,
}
