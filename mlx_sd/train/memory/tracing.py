"""The graph of a step: its loss and gradients as MLX will compute them, recorded from shapes alone.

MLX records no function that comes with its own gradient (`mlx_sd/networks/gradients.py`). So the graph is recorded with
holes: the result of each such function is a hole, and so is the cotangent of each of its arguments. What belongs into
the holes is recorded beside it, as links, and the two are joined when the graph is there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from ...networks import gradients, graph
from ...networks.gradients import Function, Gradient
from ...networks.graph import Graph, Node

CONTIGUOUS, FUSED, OWN = "Contiguous", "Fused", "OwnGradient"
_HOLE, _LINK, _MARK = "hole", "link", "mark"


@dataclass
class _Level:
    """The calls inside one function that is differentiated; `holes` are None while they are only counted."""

    holes: Sequence[mx.array] | None = None
    calls: list[tuple[Function, Gradient]] = field(default_factory=list)
    arguments: list[Sequence[mx.array]] = field(default_factory=list)
    results: list[mx.array] = field(default_factory=list)


class Recorder:
    """Differentiates functions with their own gradients by holes and links."""

    def __init__(self) -> None:
        self._level: _Level | None = None  # None: nothing is differentiated
        self._number = 0
        self._mark = mx.array(0.5772156649)  # by which nodes are found again that are there for the recorder alone
        self.links: list[mx.array] = []

    def call(self, function: Function, gradient: Gradient, arrays: Sequence[mx.array]) -> mx.array:
        """Returns a hole in the place of function(*arrays) where something is differentiated."""
        level = self._level
        if level is None:
            return _own(arrays, function(*arrays))
        number = len(level.calls)
        level.calls.append((function, gradient))
        level.arguments.append(list(arrays))
        if level.holes is not None:
            return level.holes[number]
        level.results.append(self._within(None, function, *arrays))
        return level.results[-1]

    def vjp(self, function: Function, arrays: Sequence[mx.array], cotangent: mx.array) -> list[mx.array]:
        """Returns the gradients of function(*arrays)."""
        return self.value_and_gradients(function, arrays, cotangent)[1]

    def fused(self, parts: Function, arrays: Sequence[mx.array]) -> mx.array:
        """Returns parts(*arrays), an array like the first of them, as one kernel with the gradient of its parts."""

        def kernel(*arrays: mx.array) -> mx.array:
            """Returns the kernel's result."""
            return graph.opaque(FUSED, list(arrays), arrays[0].shape, arrays[0].dtype)

        def gradient(arrays: Sequence[mx.array], cotangent: mx.array, _: mx.array) -> list[mx.array]:
            """Returns the gradients, for which MLX takes the kernel apart."""
            gradients: list[mx.array] = mx.vjp(parts, list(arrays), [cotangent])[1]
            return gradients

        return self.call(kernel, gradient, arrays)

    def contiguous(self, x: mx.array) -> mx.array:
        """Returns x with its elements in a row."""
        return graph.opaque(CONTIGUOUS, [x], x.shape, x.dtype)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Makes no holes while it is open."""
        before, self._level = self._level, None
        try:
            yield
        finally:
            self._level = before

    def value_and_gradients(
        self, function: Function, arrays: Sequence[mx.array], cotangent: mx.array
    ) -> tuple[mx.array, list[mx.array]]:
        """Returns function(*arrays) and its gradients."""
        counted = _Level()
        self._within(counted, function, *arrays)
        holes = [self._hole(result) for result in counted.results]
        cotangents = [[self._hole(array) for array in call] for call in counted.arguments]
        level = _Level(holes)

        def extended(*inputs: mx.array) -> list[mx.array]:
            """Returns the function's value, and the arguments of the calls inside it."""
            level.holes, level.calls, level.arguments = inputs[len(arrays) :], [], []
            value = self._within(level, function, *inputs[: len(arrays)])
            # MLX takes one cotangent alone of an array that is returned twice, as some are arguments of many calls.
            return [value, *(mx.depends([array], [self._mark])[0] for call in level.arguments for array in call)]

        flat = [array for call in cotangents for array in call]
        outputs, results = mx.vjp(extended, [*arrays, *holes], [cotangent, *flat])
        of_holes = results[len(arrays) :]
        following = iter(outputs[1:])
        arguments = [[next(following) for _ in call] for call in counted.arguments]
        for number, (run, gradient) in enumerate(level.calls):
            self._link(holes[number], _own(arguments[number], self._within(None, run, *arguments[number])))
            again = [self._hole(array) for array in arguments[number]]
            for hole, array in zip(again, arguments[number], strict=True):
                self._link(hole, array)  # else MLX would find that both compute the same, and keep it
            inner = self._within(None, gradient, again, of_holes[number], holes[number])
            for hole, array in zip(cotangents[number], inner, strict=True):
                self._link(hole, array)
        return outputs[0], list(results[: len(arrays)])

    def _within(self, level: _Level | None, function: Callable[..., Any], *arguments: Any) -> Any:
        before, self._level = self._level, level
        try:
            return function(*arguments)
        finally:
            self._level = before

    def _hole(self, like: mx.array) -> mx.array:
        self._number += 1
        return graph.opaque(_HOLE, [], like.shape, like.dtype, number=self._number)

    def mark(self) -> mx.array:
        """Returns a link that names the recorder's mark."""
        return graph.opaque(_MARK, [self._mark], (1,), self._mark.dtype)

    def _link(self, hole: mx.array, array: mx.array) -> None:
        self.links.append(graph.opaque(_LINK, [hole, array], (1,), hole.dtype))


def _own(arrays: Sequence[mx.array], result: mx.array) -> mx.array:
    """Returns a result by way of the node that MLX has for a function with its own gradient, which reads both."""
    return graph.opaque(OWN, [*arrays, result], result.shape, result.dtype)


def record(function: Callable[..., Sequence[mx.array]], parameters: Mapping[str, mx.array]) -> Graph:
    """Records function(recorder, **parameters), which takes gradients by the recorder; nothing is computed."""
    recorder = Recorder()

    def recorded(**arrays: mx.array) -> tuple[mx.array, ...]:
        """Returns the outputs and the links."""
        recorder.links = []
        with gradients.recording(recorder):
            outputs = function(recorder, **arrays)
        return (*outputs, *recorder.links, recorder.mark())

    return _joined(graph.trace(recorded, [], parameters, constants=False, operations=False))


def _joined(recorded: Graph) -> Graph:
    """Returns a graph in which every hole is the array that its link names, without holes and links."""
    joined = {node.inputs[0]: node.inputs[1] for node in recorded.nodes if node.op == _LINK}
    marks = {node.inputs[0] for node in recorded.nodes if node.op == _MARK}
    passing = [node for node in recorded.nodes if node.op == "Depends" and node.inputs[-1] in marks]
    joined |= {node.outputs[0]: node.inputs[0] for node in passing}
    links = {node.outputs[0] for node in recorded.nodes if node.op in (_LINK, _MARK)}
    dropped = {node.outputs[0] for node in passing}

    def target(name: str) -> str:
        """Returns the array that a name stands for."""
        while name in joined:
            name = joined[name]
        return name

    nodes = [
        Node(node.op, tuple(map(target, node.inputs)), node.outputs, node.attributes)
        for node in recorded.nodes
        if node.op not in (_HOLE, _LINK, _MARK) and node.outputs[0] not in dropped
    ]
    recorded.outputs = [target(name) for name in recorded.outputs if name not in links]
    recorded.nodes = nodes
    return recorded
