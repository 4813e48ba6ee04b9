"""The order in which MLX computes a graph: from the results backwards, at most twenty arrays wide (`eval_impl`)."""

from collections.abc import Sequence

from ...networks.graph import Graph, Node

WIDTH = 20  # MLX_BFS_MAX_WIDTH


def evaluation_order(graph: Graph) -> list[Node]:
    """Returns the nodes that the outputs need, in the order in which one evaluation of all outputs computes them."""
    producers = {name: number for number, node in enumerate(graph.nodes) for name in node.outputs}
    inputs = [[producers[name] for name in node.inputs if name in producers] for node in graph.nodes]
    roots = [producers[name] for name in graph.outputs if name in producers]
    missing = _readers(inputs, roots)
    synchronizer = len(graph.nodes)  # reads all outputs, as MLX has it
    inputs.append(roots)
    order, waiting, place = [synchronizer], list[tuple[int, int]](), 0
    while place < len(order) or waiting:
        if place < len(order):
            node, start = order[place], 0
            place += 1
        else:
            node, start = waiting.pop()
        for position in range(start, len(inputs[node])):
            read = inputs[node][position]
            if missing[read] == 0:
                continue
            if len(order) - place >= WIDTH:
                waiting.append((node, position))
                break
            missing[read] -= 1
            if missing[read] == 0:
                order.append(read)
    return [graph.nodes[number] for number in reversed(order[1:])]


def _readers(inputs: Sequence[Sequence[int]], roots: Sequence[int]) -> list[int]:
    """Counts how often nodes below the roots are read, and the roots once more."""
    counts, visited, stack = [0] * len(inputs), set[int](), list[int]()
    for root in roots:
        counts[root] += 1
        stack.append(root)
    while stack:
        node = stack.pop()
        if node in visited:
            continue
        visited.add(node)
        for read in inputs[node]:
            counts[read] += 1
            stack.append(read)
    return counts
