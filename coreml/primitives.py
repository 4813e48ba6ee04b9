"""MLX's own primitives in MIL: what lies between the networks' operations. What is known now is computed now."""

import math
from collections.abc import Sequence

import numpy as np

from mlx_sd.core.errors import InputError

from .graph import Node
from .layout import Value, plain, transposed
from .lower import MIL, Lowering, Op, dtype_of, known
from .tools import mb


def _lead(*values: Value) -> Value:
    """The one that decides how all are stored: the largest, and of equals one that is channel-first already."""
    return max((v for v in values if not known(v)), key=lambda v: (math.prod(v.sizes), v.order[-1] != len(v.shape) - 1))


def _binary(mil: Op, numpy: Op) -> Op:
    def lower(g: Lowering, node: Node, a: Value, b: Value) -> Value:
        if known(a) and known(b):
            return plain(np.asarray(numpy(g.array(a), g.array(b))))
        lead = _lead(a, b)
        x, y = g.stored(a, lead.order), g.stored(b, lead.order)
        want = dtype_of(g.stored(lead, lead.order))
        x, y = (v.astype(want) if isinstance(v, np.ndarray) else v for v in (x, y))
        out = mil(x=x, y=y)
        return Value(out, tuple(int(s) for s in out.shape), lead.order)

    return lower


def _unary(mil: Op | None, numpy: Op) -> Op:
    def lower(g: Lowering, node: Node, a: Value) -> Value:
        if known(a):
            return plain(np.asarray(numpy(g.array(a))))
        if mil is None:
            raise InputError(f"Core ML: {node.op} of something that depends on the input cannot be lowered")
        return Value(mil(x=g.stored(a, a.order)), a.sizes, a.order)

    return lower


def _cast(g: Lowering, node: Node, a: Value) -> Value:
    want = np.dtype(g.dtype(node))
    var = g.stored(a, a.order)
    if dtype_of(var) == want:
        return a
    var = var.astype(want) if isinstance(var, np.ndarray) else mb.cast(x=var, dtype=MIL[want])
    return Value(var, a.sizes, a.order)


def _broadcast(g: Lowering, node: Node, a: Value) -> Value:
    # Core ML broadcasts by itself: only the rank is raised.
    extra = len(g.shape(node)) - len(a.shape)
    order = tuple(range(extra)) + tuple(None if axis is None else axis + extra for axis in a.order)
    return Value(a.var, (1,) * extra + a.sizes, order)


def _same(g: Lowering, node: Node, a: Value) -> Value:
    return a


def _shape(g: Lowering, node: Node, a: Value) -> Value:
    return g.reshape(g.whole(a, g.graph.shapes[node.inputs[0]]), g.shape(node))


def _transpose(g: Lowering, node: Node, a: Value) -> Value:
    return transposed(a, list(node.attributes["perm"]))


def _concatenate(g: Lowering, node: Node, *values: Value) -> Value:
    axis = node.attributes["axis"]
    values = tuple(g.whole(v, g.graph.shapes[name]) for v, name in zip(values, node.inputs, strict=True))
    if all(known(v) for v in values):
        return plain(np.concatenate([g.array(v) for v in values], axis))
    order = _lead(*values).order
    out = mb.concat(values=[g.stored(v, order) for v in values], axis=order.index(axis))
    return Value(out, tuple(int(s) for s in out.shape), order)


def _split(g: Lowering, node: Node, a: Value) -> list[Value]:
    axis = node.attributes["axis"]
    ends = [*node.attributes["indices"], a.shape[axis]]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    outs = mb.split(x=g.stored(a, a.order), split_sizes=sizes, axis=a.order.index(axis))
    return [Value(out, tuple(int(s) for s in out.shape), a.order) for out in outs]


def _slice(g: Lowering, node: Node, a: Value) -> Value:
    begin, end, stride = (node.attributes[name] for name in ("begin", "end", "stride"))
    if known(a):
        return plain(g.array(a)[tuple(slice(*s) for s in zip(begin, end, stride, strict=True))])

    def of(values: Sequence[int], units: int) -> list[int]:
        return [units if axis is None else values[axis] for axis in a.order]

    out = mb.slice_by_index(x=g.stored(a, a.order), begin=of(begin, 0), end=of(end, 1), stride=of(stride, 1))
    return Value(out, tuple(int(s) for s in out.shape), a.order)


def _pad(g: Lowering, node: Node, a: Value, fill: Value) -> Value:
    axes = node.attributes["axes"]
    low, high = (dict(zip(axes, node.attributes[side], strict=True)) for side in ("low", "high"))
    pads = [n for axis in a.order for n in ((low.get(axis, 0), high.get(axis, 0)) if axis is not None else (0, 0))]
    var = g.stored(a, a.order)
    value = g.array(fill).astype(dtype_of(var))[()]
    out = mb.pad(x=var, pad=pads, mode="constant", constant_val=value)
    return Value(out, tuple(int(s) for s in out.shape), a.order)


def _select(g: Lowering, node: Node, condition: Value, a: Value, b: Value) -> Value:
    return plain(np.where(g.array(condition), g.array(a), g.array(b)))


def _arange(g: Lowering, node: Node) -> Value:
    a = node.attributes
    return plain(np.arange(a["start"], a["stop"], a["step"]).astype(g.dtype(node)))


def _arg_reduce(g: Lowering, node: Node, a: Value) -> Value:
    reduce = (mb.reduce_argmin, mb.reduce_argmax)[node.attributes["kind"]]
    var = g.stored(a, tuple(range(len(a.shape))))
    if dtype_of(var) == np.bool_:
        var = mb.cast(x=var, dtype="int32")
    return plain(reduce(x=var, axis=node.attributes["axis"], keep_dims=True))


def _gather(g: Lowering, node: Node, a: Value, *indices: Value) -> Value:
    """Rows of a table; with several indices, what lies where they point together."""
    axes, shape = list(node.attributes["axes"]), g.shape(node)
    if axes != list(range(len(axes))):
        raise InputError(f"Core ML: an index into axes {axes} (in or after {g.graph.layer(node)}) cannot be lowered")
    x = g.stored(a, tuple(range(len(a.shape))))
    places = [g.stored(i, tuple(range(len(i.shape)))) for i in indices]
    if len(axes) == 1:
        return g.reshape(plain(mb.gather(x=x, indices=places[0], axis=0)), shape)
    together = mb.stack(values=places, axis=-1)
    return g.reshape(plain(mb.gather_nd(x=x, indices=together)), shape)


OPS: dict[str, Op] = {
    "Add": _binary(mb.add, np.add),
    "Subtract": _binary(mb.sub, np.subtract),
    "Multiply": _binary(mb.mul, np.multiply),
    "Divide": _binary(mb.real_div, np.divide),
    "Equal": _binary(mb.equal, np.equal),
    "GreaterEqual": _binary(mb.greater_equal, np.greater_equal),
    "Exp": _unary(mb.exp, np.exp),
    "Sin": _unary(mb.sin, np.sin),
    "Cos": _unary(mb.cos, np.cos),
    "Full": _same,
    "AsType": _cast,
    "Broadcast": _broadcast,
    "Reshape": _shape,
    "Flatten": _shape,
    "Unflatten": _shape,
    "ExpandDims": _shape,
    "Squeeze": _shape,
    "Transpose": _transpose,
    "Concatenate": _concatenate,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Select": _select,
    "Arange": _arange,
    "ArgReduce": _arg_reduce,
    "Gather": _gather,
}
