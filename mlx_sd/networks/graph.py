"""The recorded graph of a function of networks: whole operations of `ops`, and MLX's primitives between.

MLX's own tracer walks the function. An operation is recorded as one opaque node: a kernel that carries the operation's
name and attributes through the trace and never runs, so that a graph does not depend on the machine or its device.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from . import ops, tuning
from .counting import macs

Traced = Callable[..., tuple[mx.array, ...]]

# Names of a primitive's arguments, in the order in which MLX's callback lists them.
_ARGUMENTS = {
    "ArgReduce": ("kind", "axis"),
    "Arange": ("start", "stop", "step"),
    "Concatenate": ("axis",),
    "Convolution": ("strides", "low", "high", "kernel_dilation", "input_dilation", "groups", "flip"),
    "Gather": ("axes", "sizes"),
    "Pad": ("axes", "low", "high"),
    "Slice": ("begin", "end", "stride"),
    "Split": ("indices", "axis"),
    "Transpose": ("perm",),
}


@dataclass(frozen=True)
class Node:
    """One operation of a graph; `inputs` and `outputs` are names of values."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass
class Graph:
    """A function as nodes in an order in which they can run, with the shape and dtype of every value by its name."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)  # value -> name of the network's parameter it is
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, mx.Dtype] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def layer(self, node: Node) -> str:
        """Returns the name of the layer that a node belongs to, or of the last layer before it, for error messages."""
        layer = "the first layer"
        for n in self.nodes:
            layer = next((self.parameters[i].rpartition(".")[0] for i in n.inputs if i in self.parameters), layer)
            if n is node:
                break
        return layer

    def macs(self) -> int:
        """Counts the multiply-accumulates of the convolutions, linears and attentions."""
        return sum(self.macs_by_operation().values())

    def macs_by_operation(self) -> dict[str, int]:
        """Counts the multiply-accumulates of each kind of operation that has any."""
        counts: dict[str, int] = {}
        for node in self.nodes:
            count = macs(node.op, [self.shapes[name] for name in node.inputs], self.shapes[node.outputs[0]])
            if count:
                counts[node.op] = counts.get(node.op, 0) + count
        return counts


def trace(
    function: Traced,
    inputs: Sequence[mx.array],
    parameters: Mapping[str, mx.array],
    constants: bool = True,
    operations: bool = True,
) -> Graph:
    """Records function(*inputs, **parameters); only shapes and dtypes of the arrays matter, nothing is computed.

    constants: whether the graph holds the numbers of arrays that the function reads and that are no arguments.
    operations: whether those of `ops` are recorded whole, and not as the primitives that they are made of.
    """
    graph = Graph()
    parameter_names: dict[str, str] = {}

    def add_values(values: Sequence[tuple[str, Sequence[int], mx.Dtype]]) -> tuple[str, ...]:
        """Notes shape and dtype of values (name, shape, dtype); returns their names."""
        for name, shape, dtype in values:
            graph.shapes[name], graph.dtypes[name] = tuple(shape), dtype
        return tuple(name for name, _, _ in values)

    def add_event(event: Mapping[str, Any]) -> None:
        """Adds to the graph what one call of MLX's callback reports."""
        kind = event["type"]
        if kind == "inputs":
            graph.inputs = list(add_values(event["inputs"]))
        elif kind == "keyword_inputs":
            parameter_names.update({value: keyword for keyword, value in event["keywords"]})
        elif kind == "outputs":
            graph.outputs = list(add_values(event["outputs"]))
        elif kind == "constants":
            for name, array in event["constants"]:
                add_values([(name, array.shape, array.dtype)])
                if constants:
                    graph.constants[name] = np.array(array)
        elif kind == "primitive":
            op, attributes = _operation(event["name"], event["arguments"])
            graph.nodes.append(Node(op, add_values(event["inputs"]), add_values(event["outputs"]), attributes))

    with tuning.using(tuning.DEFAULT), ops.recording(_opaque) if operations else nullcontext():
        mx.export_function(add_event, function, list(inputs), dict(parameters))
    read = {name for node in graph.nodes for name in node.inputs}
    graph.parameters = {value: name for value, name in parameter_names.items() if value in read}
    graph.inputs = [name for name in graph.inputs if name not in parameter_names]
    return graph


def mark(x: mx.array, **attributes: Any) -> mx.array:
    """Returns x by way of a node "mark" with attributes; only inside a function that is traced."""
    return _opaque("mark", lambda x, **_: x, (x,), attributes)


def opaque(name: str, inputs: Sequence[mx.array], shape: Sequence[int], dtype: mx.Dtype, **attributes: Any) -> mx.array:
    """Returns an array of this shape and dtype by way of a node of its own; only inside a function that is traced."""
    kernel: Any = mx.fast.metal_kernel(
        name=name,
        input_names=[f"x{i}" for i in range(len(inputs))],
        output_names=["y"],
        source=f"@@{json.dumps({'op': name, **attributes})}@@",
    )
    unit = (1, 1, 1)
    (y,) = kernel(inputs=list(inputs), grid=unit, threadgroup=unit, output_shapes=[shape], output_dtypes=[dtype])
    traced: mx.array = y
    return traced


def _opaque(
    name: str, function: Callable[..., mx.array], arrays: tuple[mx.array | None, ...], attributes: dict[str, Any]
) -> mx.array:
    """Returns the result of an operation as a kernel that carries its name and attributes as JSON."""
    inputs = [a for a in arrays if a is not None]
    if any(a is not None for a in arrays[len(inputs) :]):
        raise AssertionError(f"{name}: only the last arrays can be None")
    return opaque(name, inputs, function(*inputs, **attributes).shape, inputs[0].dtype, **attributes)


def _operation(primitive: str, arguments: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """Returns the name and the attributes of a traced primitive, or of the operation that an opaque kernel carries."""
    if primitive == "CustomKernel":
        source = next(a for a in arguments if isinstance(a, str) and "@@" in a)
        attributes = json.loads(re.split("@@", source)[1])
        return attributes.pop("op"), attributes
    return primitive, dict(zip(_ARGUMENTS.get(primitive, ()), arguments, strict=False))
