"""Cutting a graph in two, for systems that do not take a network's weights in one package."""

import math
from dataclasses import replace

from mlx_sd.networks.graph import Graph

from .interfaces import FunctionSpec, Port
from .layout import IMAGE


def halves(spec: FunctionSpec, graph: Graph) -> list[tuple[FunctionSpec, Graph]]:
    """Returns two specs and graphs of about equal weights that compute the function one after the other.

    The first has outputs named `hidden_...` that the second takes as inputs; both may take the function's own inputs.
    The cut is at the place nearest to half of the weights where only images and vectors pass.
    """
    weights = _cumulative_weights(graph)
    places = sorted(range(1, len(graph.nodes)), key=lambda i: abs(2 * weights[i - 1] - weights[-1]))
    place = next(i for i in places if all(len(graph.shapes[name]) in (2, 4) for name in _crossing(graph, i)))
    crossing = _crossing(graph, place)
    ports = dict(zip((*graph.inputs, *graph.outputs), (*spec.inputs, *spec.outputs), strict=True))
    ports |= {name: _port(graph, name) for name in crossing if name not in ports}
    pieces = []
    for nodes, more_inputs, outputs in (
        (graph.nodes[:place], [], crossing),
        (graph.nodes[place:], crossing, [name for name in graph.outputs if name not in crossing]),
    ):
        read = {name for node in nodes for name in node.inputs}
        inputs = [name for name in (*graph.inputs, *more_inputs) if name in read]
        parameters = {value: parameter for value, parameter in graph.parameters.items() if value in read}
        half = replace(graph, nodes=nodes, inputs=inputs, outputs=outputs, parameters=parameters)
        half_spec = replace(spec, inputs=tuple(ports[n] for n in inputs), outputs=tuple(ports[n] for n in outputs))
        pieces.append((half_spec, half))
    return pieces


def _cumulative_weights(graph: Graph) -> list[int]:
    """Returns, after each node, how many parameters the nodes up to it read, each tensor counted once."""
    counted: set[str] = set()
    sums, total = [], 0
    for node in graph.nodes:
        for name in node.inputs:
            if name in graph.parameters and name not in counted:
                counted.add(name)
                total += math.prod(graph.shapes[name])
        sums.append(total)
    return sums


def _crossing(graph: Graph, place: int) -> list[str]:
    """Returns the values computed before a place and used after it, in the order in which they are computed."""
    used = {name for node in graph.nodes[place:] for name in node.inputs} | set(graph.outputs)
    return [name for node in graph.nodes[:place] for name in node.outputs if name in used]


def _port(graph: Graph, value: str) -> Port:
    shape, dtype = graph.shapes[value], graph.dtypes[value]
    return Port(f"hidden_{value}", shape, IMAGE if len(shape) == 4 else tuple(range(len(shape))), dtype, dtype)
