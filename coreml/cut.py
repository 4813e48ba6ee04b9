"""A graph in two: for systems that do not take a network's weights in one package."""

import math
from dataclasses import replace

from .graph import Graph, Node
from .layout import IMAGE
from .networks import Port, Spec


def halves(spec: Spec, graph: Graph) -> list[tuple[Spec, Graph]]:
    """Two packages of about equal weights that compute the spec's function one after the other.

    What the second needs of the first passes by name; both may take the function's own inputs. They are cut where
    only images and vectors pass.
    """
    weights = _weights(graph)
    total = weights[-1]
    places = sorted(range(1, len(graph.nodes)), key=lambda i: abs(2 * weights[i - 1] - total))
    place = next(i for i in places if all(_passes(graph, name) for name in _crossing(graph, i)))
    crossing = _crossing(graph, place)
    ports = tuple(_port(graph, name, f"hidden_{name}") for name in crossing)
    first = replace(
        graph, nodes=graph.nodes[:place], outputs=crossing, inputs=_reads(graph, graph.nodes[:place], graph.inputs)
    )
    after = graph.nodes[place:]
    kept = _reads(graph, after, graph.inputs)
    second = replace(graph, nodes=after, inputs=[*kept, *crossing])
    by_value = dict(zip(graph.inputs, spec.inputs, strict=True))
    return [
        (
            replace(spec, inputs=tuple(by_value[v] for v in first.inputs), outputs=ports),
            replace(first, parameters=_used(first)),
        ),
        (
            replace(spec, inputs=(*(by_value[v] for v in kept), *ports)),
            replace(second, parameters=_used(second)),
        ),
    ]


def _weights(graph: Graph) -> list[int]:
    """Numbers of parameters read by the nodes so far, each counted once."""
    seen: set[str] = set()
    sums, total = [], 0
    for node in graph.nodes:
        for name in node.inputs:
            if name in graph.parameters and name not in seen:
                seen.add(name)
                total += math.prod(graph.shapes[name])
        sums.append(total)
    return sums


def _crossing(graph: Graph, place: int) -> list[str]:
    """Values made before a place and used after it, in the order in which they are made."""
    needed = {name for node in graph.nodes[place:] for name in node.inputs} | set(graph.outputs)
    return [name for node in graph.nodes[:place] for name in node.outputs if name in needed]


def _passes(graph: Graph, name: str) -> bool:
    return len(graph.shapes[name]) in (2, 4)


def _port(graph: Graph, value: str, name: str) -> Port:
    shape, dtype = graph.shapes[value], graph.dtypes[value]
    return Port(name, shape, IMAGE if len(shape) == 4 else tuple(range(len(shape))), dtype, dtype)


def _reads(graph: Graph, nodes: list[Node], among: list[str]) -> list[str]:
    read = {name for node in nodes for name in node.inputs}
    return [name for name in among if name in read]


def _used(graph: Graph) -> dict[str, str]:
    read = {name for node in graph.nodes for name in node.inputs}
    return {value: parameter for value, parameter in graph.parameters.items() if value in read}
