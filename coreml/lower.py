"""A recorded graph -> a MIL function, node by node; what each kind of node becomes is in the tables it is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.core.errors import InputError

from .graph import Graph, Node
from .layout import Order, Value, path, plain, reshaped
from .tools import mb, types

Weight = Callable[[str, np.ndarray], Any]  # a parameter's name and numbers -> what an operation takes for its weight
Op = Callable[..., Any]

NUMPY = {
    mx.float16: np.float16,
    mx.float32: np.float32,
    mx.int32: np.int32,
    mx.int64: np.int32,  # Core ML has no others
    mx.uint32: np.int32,
    mx.bool_: np.bool_,
}
MIL = {np.dtype(a): b for a, b in ((np.float16, "fp16"), (np.float32, "fp32"), (np.int32, "int32"), (np.bool_, "bool"))}


@dataclass(frozen=True)
class Parameter:
    """A network's parameter, read from its file only when an operation wants its numbers."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Lowering:
    """Emits the operations of one graph into the MIL function that is being built."""

    def __init__(self, graph: Graph, table: Mapping[str, Op], read: Callable[[str], np.ndarray], weight: Weight):
        """table: kind of node -> what emits it; read(name): a parameter's numbers, in the dtype traced."""
        self.graph, self._table, self._weight = graph, table, weight
        self._made: dict[tuple[int, str, tuple[int, ...]], tuple[Any, Any]] = {}
        self._values: dict[str, Value] = {name: plain(self._numpy(array)) for name, array in graph.constants.items()}
        for name, parameter in graph.parameters.items():
            self._values[name] = plain(Parameter(parameter, graph.shapes[name], partial(read, parameter)))

    def run(self, inputs: Sequence[Value]) -> list[Value]:
        """Lowers every node; `inputs` are those of the graph, in its order. Returns its outputs."""
        self._values.update(zip(self.graph.inputs, inputs, strict=True))
        last = {name: node for node in self.graph.nodes for name in node.inputs}
        for node in self.graph.nodes:
            if node.op not in self._table:
                raise InputError(f"Core ML: the operation {node.op} ({self.graph.layer(node)}) cannot be lowered")
            result = self._table[node.op](self, node, *[self._values[name] for name in node.inputs])
            results = result if isinstance(result, list) else [result]
            self._values.update(zip(node.outputs, results, strict=True))
            for name in node.inputs:  # weights' numbers go with their last use
                if last[name] is node and name not in self.graph.outputs:
                    self._values.pop(name, None)
        return [self.whole(self._values[name], self.graph.shapes[name]) for name in self.graph.outputs]

    def shape(self, node: Node) -> tuple[int, ...]:
        """Of the node's first output, as the network sees it."""
        return self.graph.shapes[node.outputs[0]]

    def dtype(self, node: Node) -> type:
        """Of the node's first output."""
        return NUMPY[self.graph.dtypes[node.outputs[0]]]

    def weight(self, value: Value, array: np.ndarray) -> Any:
        """What an operation takes for its weight: `array`, made of the parameter `value`, compressed or as it is."""
        return self._weight(value.var.name, array) if isinstance(value.var, Parameter) else array

    def array(self, value: Value) -> np.ndarray:
        """The numbers of a constant or parameter, as the network sees them."""
        if not known(value):
            raise InputError("Core ML: a weight or index that depends on the input cannot be lowered")
        array: np.ndarray = self.stored(value, tuple(range(len(value.shape))))
        return array

    def stored(self, value: Value, order: Order) -> Any:
        """The value's variable (or numbers) with its axes in the given order."""
        read, perm, sizes = path(value, order)
        var = value.var.read() if isinstance(value.var, Parameter) else value.var
        if isinstance(var, np.ndarray):
            var = var.reshape(read)
            return (var if perm is None else var.transpose(perm)).reshape(sizes)
        if perm is not None:
            var = self._once(self._reshape(var, read), "transpose", tuple(perm))
        return self._reshape(var, sizes)

    def whole(self, value: Value, shape: tuple[int, ...]) -> Value:
        """The value at its full shape, where a broadcast has only been noted."""
        if value.shape == shape:
            return value
        reps = [shape[a] // value.shape[a] if a is not None else 1 for a in value.order]
        var = self.stored(value, value.order)
        var = np.tile(var, reps) if isinstance(var, np.ndarray) else mb.tile(x=var, reps=reps)
        return Value(var, tuple(s * r for s, r in zip(value.sizes, reps, strict=True)), value.order)

    def reshape(self, value: Value, shape: tuple[int, ...]) -> Value:
        """The network's reshape."""
        free = reshaped(value, shape)
        if free is None:
            free = reshaped(plain(self.stored(value, tuple(range(len(value.shape))))), shape)
        assert free is not None, "a plain value can take any shape"
        return free

    def _reshape(self, var: Any, sizes: tuple[int, ...]) -> Any:
        return var if tuple(var.shape) == sizes else self._once(var, "reshape", sizes)

    def _once(self, var: Any, kind: str, how: tuple[int, ...]) -> Any:
        # Of one value the same view is often wanted again.
        key = (id(var), kind, how)
        if key not in self._made:
            made = mb.reshape(x=var, shape=list(how)) if kind == "reshape" else mb.transpose(x=var, perm=list(how))
            self._made[key] = (made, var)  # var too: its id must stay its own
        return self._made[key][0]

    @staticmethod
    def _numpy(array: np.ndarray) -> np.ndarray:
        return array.astype(np.int32) if array.dtype.kind in "iu" else array


def known(value: Value) -> bool:
    """Whether the numbers are known now."""
    return isinstance(value.var, (np.ndarray, Parameter))


def dtype_of(var: Any) -> np.dtype:
    """Of a MIL variable or numpy array."""
    found: np.dtype = var.dtype if isinstance(var, np.ndarray) else np.dtype(types.nptype_from_builtin(var.dtype))
    return found
