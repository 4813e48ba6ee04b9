"""Lowering of a recorded graph, node by node: the rules say what each kind of node becomes, an emitter adds it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from mlx_sd.core.errors import InputError
from mlx_sd.networks.graph import Graph, Node

from .layout import Order, Value, path, plain, reshaped

Rule = Callable[..., Any]  # rule(lowering, node, *inputs: Value) -> Value, or a list of them

NUMPY = {
    mx.float16: np.float16,
    mx.float32: np.float32,
    mx.int32: np.int32,
    mx.int64: np.int32,  # neither Core ML nor Core AI has 64-bit integers, nor unsigned ones for indices
    mx.uint32: np.int32,
    mx.bool_: np.bool_,
}
# numpy's type -> its name as an argument of `cast`
CAST = {
    np.dtype(a): b for a, b in ((np.float16, "fp16"), (np.float32, "fp32"), (np.int32, "int32"), (np.bool_, "bool"))
}


class Emitter(Protocol):
    """Adds operations to the program that is being built; its variables have a `shape`.

    Beside the methods below it has one for each operation that the rules use, with the names and parameters of
    coremltools' Builder: `conv`, `linear`, `layer_norm`, `matmul`, `softmax`, `reshape`, `transpose`, ...; numpy arrays
    are taken as constants.
    """

    def dtype(self, var: Any, /) -> np.dtype:
        """Returns the numpy type of a variable's elements."""

    def weight(self, parameter: str, array: np.ndarray, /) -> Any:
        """Returns the argument for a weight made from a parameter of that name: compressed, or the array itself."""

    def __getattr__(self, operation: str, /) -> Callable[..., Any]:
        """Returns the method that adds an operation of that name and returns its variable, or a list of them."""


@dataclass(frozen=True)
class Parameter:
    """A network's parameter, read from its file only when an operation needs its numbers."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Lowering:
    """One graph on its way into an emitter: the values computed so far, and the helpers that rules use."""

    def __init__(self, graph: Graph, rules: Mapping[str, Rule], emit: Emitter, read: Callable[[str], np.ndarray]):
        """Prepares the constants and parameters of a graph.

        rules: kind of node -> rule. read(name): numbers of a parameter, in the shape and dtype that was recorded.
        """
        self.graph, self.emit, self._rules = graph, emit, rules
        self._views: dict[tuple[int, str, tuple[int, ...]], tuple[Any, Any]] = {}
        self._padded: dict[int, tuple[Any, list[int], Any]] = {}
        self._values: dict[str, Value] = {name: plain(_constant(array)) for name, array in graph.constants.items()}
        for name, parameter in graph.parameters.items():
            self._values[name] = plain(Parameter(parameter, graph.shapes[name], partial(read, parameter)))

    def run(self, inputs: Sequence[Value]) -> list[Value]:
        """Lowers every node and returns the graph's outputs; `inputs` are those of the graph, in its order.

        Raises InputError with the name of the operation and its layer where there is no rule for a node.
        """
        self._values.update(zip(self.graph.inputs, inputs, strict=True))
        last_use = {name: node for node in self.graph.nodes for name in node.inputs}
        for node in self.graph.nodes:
            if node.op not in self._rules:
                raise InputError(f"the operation {node.op} ({self.graph.layer(node)}) cannot be lowered")
            result = self._rules[node.op](self, node, *[self._values[name] for name in node.inputs])
            results = result if isinstance(result, list) else [result]
            self._values.update(zip(node.outputs, results, strict=True))
            for name in node.inputs:  # frees the numbers of weights after their last use
                if last_use[name] is node and name not in self.graph.outputs:
                    self._values.pop(name, None)
        return [self.broadcast(self._values[name], self.graph.shapes[name]) for name in self.graph.outputs]

    def shape(self, node: Node) -> tuple[int, ...]:
        """Returns the shape of a node's first output, as the network has it."""
        return self.graph.shapes[node.outputs[0]]

    def dtype(self, node: Node) -> type:
        """Returns the numpy type of a node's first output."""
        return NUMPY[self.graph.dtypes[node.outputs[0]]]

    def dtype_of(self, var: Any) -> np.dtype:
        """Returns the numpy type of a variable or an array."""
        dtype: np.dtype = var.dtype if isinstance(var, np.ndarray) else self.emit.dtype(var)
        return dtype

    def weight(self, value: Value, array: np.ndarray) -> Any:
        """Returns an operation's argument for its weight: `array`, made from `value`, or its compressed form."""
        return self.emit.weight(value.var.name, array) if isinstance(value.var, Parameter) else array

    def array(self, value: Value) -> np.ndarray:
        """Returns the numbers of a constant or parameter, in the shape that the network has; InputError for others."""
        if not is_constant(value):
            raise InputError("a weight or index that depends on the input cannot be lowered")
        array: np.ndarray = self.stored(value, tuple(range(len(value.shape))))
        return array

    def stored(self, value: Value, order: Order) -> Any:
        """Returns the value's variable, or its numbers, with the axes in the given storage order."""
        read_shape, perm, sizes = path(value, order)
        var = value.var.read() if isinstance(value.var, Parameter) else value.var
        if isinstance(var, np.ndarray):
            var = var.reshape(read_shape)
            return (var if perm is None else var.transpose(perm)).reshape(sizes)
        if perm is not None:
            var = self._view(self._reshape(var, read_shape), "transpose", tuple(perm))
        return self._reshape(var, sizes)

    def broadcast(self, value: Value, shape: tuple[int, ...]) -> Value:
        """Repeats a value up to the given shape of the network; the rule of Broadcast has only raised its rank."""
        if value.shape == shape:
            return value
        reps = [shape[a] // value.shape[a] if a is not None else 1 for a in value.order]
        var = self.stored(value, value.order)
        var = np.tile(var, reps) if isinstance(var, np.ndarray) else self.emit.tile(x=var, reps=reps)
        return Value(var, tuple(s * r for s, r in zip(value.sizes, reps, strict=True)), value.order)

    def reshape(self, value: Value, shape: tuple[int, ...]) -> Value:
        """Returns the value in another shape of the network, with a transpose where its storage needs one."""
        result = reshaped(value, shape)
        if result is None:
            result = reshaped(plain(self.stored(value, tuple(range(len(value.shape))))), shape)
        assert result is not None, "a plain value can take any shape"
        return result

    def note_padding(self, padded: Any, image: Any, amounts: Sequence[int]) -> None:
        """Remembers that `padded` is `image` with zeros around it; amounts: (before, after) of each stored axis."""
        self._padded[id(padded)] = (image, list(amounts), padded)  # padded too: its id must stay in use

    def unpadded(self, image: Any) -> tuple[Any, list[int]]:
        """Returns an image (B, C, H, W) before zeros were put around it, and how many: [top, bottom, left, right]."""
        original, amounts, _ = self._padded.get(id(image), (image, [0] * 8, None))
        return (original, amounts[4:]) if not any(amounts[:4]) else (image, [0] * 4)

    def _reshape(self, var: Any, sizes: tuple[int, ...]) -> Any:
        return var if tuple(var.shape) == sizes else self._view(var, "reshape", sizes)

    def _view(self, var: Any, kind: str, argument: tuple[int, ...]) -> Any:
        """Returns a reshape or transpose of a variable, the same one each time it is asked for."""
        key = (id(var), kind, argument)
        if key not in self._views:
            view = (
                self.emit.reshape(x=var, shape=list(argument))
                if kind == "reshape"
                else self.emit.transpose(x=var, perm=list(argument))
            )
            self._views[key] = (view, var)  # var too: its id must stay in use
        return self._views[key][0]


def is_constant(value: Value) -> bool:
    """Returns whether a value's numbers are known at conversion."""
    return isinstance(value.var, (np.ndarray, Parameter))


def _constant(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int32) if array.dtype.kind in "iu" else array
