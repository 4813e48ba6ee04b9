"""What a network computes, as a list of nodes: whole operations where `mlx_sd.ops` knows them, MLX's primitives else.

MLX's own tracer does the walking. An operation is recorded as one opaque node: a kernel that carries the operation's
name and attributes through the trace and is never run, so that neither the machine nor its device shows in a graph.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.networks import ops

Traced = Callable[..., tuple[mx.array, ...]]

# What the arguments of a primitive mean, in the order in which MLX tells them.
_ARGUMENTS = {
    "ArgReduce": ("kind", "axis"),
    "Arange": ("start", "stop", "step"),
    "Concatenate": ("axis",),
    "Gather": ("axes", "sizes"),
    "Pad": ("axes", "low", "high"),
    "Slice": ("begin", "end", "stride"),
    "Split": ("indices", "axis"),
    "Transpose": ("perm",),
}


@dataclass(frozen=True)
class Node:
    """One operation: `inputs` and `outputs` are names of values."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass
class Graph:
    """Nodes in an order in which they can run, and what their values are."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)  # value -> the name of a parameter that is read
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, mx.Dtype] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def layer(self, node: Node) -> str:
        """The layer a node belongs to, or the last layer before it: what an error can name."""
        last = "the first layer"
        for n in self.nodes:
            last = next((self.parameters[i].rpartition(".")[0] for i in n.inputs if i in self.parameters), last)
            if n is node:
                break
        return last

    def macs(self) -> int:
        """Multiply-accumulates of the convolutions, linears and attentions."""
        return sum(
            macs(node.op, [self.shapes[name] for name in node.inputs], self.shapes[node.outputs[0]])
            for node in self.nodes
        )


def macs(op: str, inputs: Sequence[Sequence[int]], output: Sequence[int]) -> int:
    """Multiply-accumulates of an operation of `mlx_sd.ops`, from shapes; only these three have any."""
    if op == "conv2d":
        return math.prod(output) * math.prod(inputs[1][1:])
    if op == "linear":
        return math.prod(inputs[0]) * inputs[1][0]
    if op == "attention":
        return 2 * math.prod(inputs[0]) * inputs[1][2]
    return 0


def trace(function: Traced, inputs: Sequence[mx.array], parameters: Mapping[str, mx.array]) -> Graph:
    """Records function(*inputs, **parameters); only shapes and dtypes of the arrays matter, none is computed."""
    graph = Graph()
    names: dict[str, str] = {}

    def note(values: Sequence[tuple[str, Sequence[int], mx.Dtype]]) -> tuple[str, ...]:
        for name, shape, dtype in values:
            graph.shapes[name], graph.dtypes[name] = tuple(shape), dtype
        return tuple(name for name, _, _ in values)

    def see(record: Mapping[str, Any]) -> None:
        kind = record["type"]
        if kind == "inputs":
            graph.inputs = list(note(record["inputs"]))
        elif kind == "keyword_inputs":
            names.update({value: keyword for keyword, value in record["keywords"]})
        elif kind == "outputs":
            graph.outputs = list(note(record["outputs"]))
        elif kind == "constants":
            for name, array in record["constants"]:
                note([(name, array.shape, array.dtype)])
                graph.constants[name] = np.array(array)
        elif kind == "primitive":
            inputs, outputs = note(record["inputs"]), note(record["outputs"])
            op, attributes = _read(record["name"], record["arguments"])
            graph.nodes.append(Node(op, inputs, outputs, attributes))

    with ops.recording(_record):
        mx.export_function(see, function, list(inputs), dict(parameters))
    read = {name for node in graph.nodes for name in node.inputs}
    graph.parameters = {value: parameter for value, parameter in names.items() if value in read}
    graph.inputs = [name for name in graph.inputs if name not in names]
    return graph


def _record(
    name: str, function: Callable[..., mx.array], arrays: tuple[mx.array | None, ...], attributes: dict[str, Any]
) -> mx.array:
    given = [a for a in arrays if a is not None]
    if any(a is not None for a in arrays[len(given) :]):
        raise AssertionError(f"{name}: only the last arrays can be left out")
    kernel: Any = mx.fast.metal_kernel(
        name=name,
        input_names=[f"x{i}" for i in range(len(given))],
        output_names=["y"],
        source=f"@@{json.dumps({'op': name, **attributes})}@@",
    )
    like = function(*given, **attributes)
    unit = (1, 1, 1)
    (y,) = kernel(inputs=given, grid=unit, threadgroup=unit, output_shapes=[like.shape], output_dtypes=[given[0].dtype])
    traced: mx.array = y
    return traced


def _read(name: str, arguments: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    if name == "CustomKernel":
        source = next(a for a in arguments if isinstance(a, str) and "@@" in a)
        attributes = json.loads(re.split("@@", source)[1])
        return attributes.pop("op"), attributes
    return name, dict(zip(_ARGUMENTS.get(name, ()), arguments, strict=False))
