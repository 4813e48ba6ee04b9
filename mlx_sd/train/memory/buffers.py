"""The memory of a graph while it is computed: which arrays share a buffer, and when each is freed."""

import math
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...networks.graph import Graph, Node
from .order import evaluation_order
from .tracing import OWN

_SHARE = ("Broadcast", "BroadcastAxes", "Copy", "StopGradient", "View", "Slice", "Split", "Transpose", "Depends", OWN)
_RESHAPE = ("Reshape", "Flatten", "Unflatten", "ExpandDims", "Squeeze", "Contiguous")
# Operations of several numbers at once that write where they have read; all others take memory for their result.
_OWN = ("Matmul", "AddMM", "Convolution", "Reduce", "Concatenate", "Pad", "Gather", "Full", "Arange", "AsStrided")
_DISPATCHES = {"Convolution": 6, "Concatenate": 3, "Pad": 3}

Strides = tuple[int, ...]


class Device(NamedTuple):
    """How MLX computes on a device.

    in_flight: dispatches that it prepares before the first of them has ended; what they read stays until then. unfolds:
    whether convolutions copy their input, each pixel as often as the kernel has places.
    """

    in_flight: int
    unfolds: bool


CPU = Device(100, True)  # ten tasks of ten dispatches
GPU = Device(20, False)  # ten command buffers, which large operations have to themselves


@dataclass(frozen=True)
class Peak:
    """The memory at its peak, in bytes; the parts but the last add up to `total`."""

    total: int
    inputs: int  # of the graph, that somebody else holds too
    consumed: int  # inputs that nobody else holds
    results: int  # its outputs that are there already
    activations: int  # arrays of the forward that gradients will read
    working: int  # all other arrays
    largest: int  # the largest array that is made


class _Memory:
    """Buffers with the number of their holders, and the most bytes that there were."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.holders: Counter[int] = Counter()
        self.now = self.most = self.largest = 0

    def make(self, size: int) -> int:
        """Returns a new buffer, which nobody holds yet."""
        number = len(self.sizes)
        self.sizes[number] = size
        self.now += size
        self.largest = max(self.largest, size)
        return number

    def hold(self, buffer: int) -> None:
        """Adds a holder to a buffer."""
        self.holders[buffer] += 1

    def release(self, buffer: int) -> None:
        """Takes a holder away; a buffer without one is freed."""
        self.holders[buffer] -= 1
        if not self.holders[buffer]:
            self.now -= self.sizes[buffer]


def peak(graph: Graph, loss: str | None, consumed: Collection[str] = (), device: Device = CPU) -> Peak:
    """Returns the most memory that an evaluation of all outputs needs, with that of the inputs.

    loss: the output that ends the forward. consumed: inputs that nobody else holds, so that they are freed, or written
    over, when they have been read.
    """
    place = _Evaluation(graph, loss, consumed, device).run()
    evaluation = _Evaluation(graph, loss, consumed, device)
    evaluation.run(until=place)
    return evaluation.parts()


class _Evaluation:
    def __init__(self, graph: Graph, loss: str | None, consumed: Collection[str], device: Device):
        self.graph, self.order, self.memory = graph, evaluation_order(graph), _Memory()
        self.readers = Counter(name for node in self.order for name in node.inputs)
        self.outputs = {*graph.outputs}
        self.buffer: dict[str, int] = {}
        self.strides: dict[str, Strides] = {}
        self.queue: deque[tuple[int, list[int]]] = deque()
        self.dispatched, self.device = 0, device
        self.forward = _ancestors(graph, loss)
        produced = {name for node in self.order for name in node.outputs}
        for name in {*graph.shapes} & ({*self.readers} | {*graph.parameters}) - produced:
            self.buffer[name] = self.memory.make(self._bytes(name))
            self.strides[name] = _row(graph.shapes[name])
            for _ in range(self.readers[name] + (name not in consumed)):
                self.memory.hold(self.buffer[name])
        self.inputs = {*self.buffer.values()}
        self.consumed = {self.buffer[name] for name in consumed}
        self.memory.largest = 0

    def run(self, until: int | None = None) -> int:
        """Computes nothing, and counts: until the most memory is in use, or until an operation; returns its number."""
        place = 0
        for number, node in enumerate(self.order):
            self._compute(node)
            if self.memory.now > self.memory.most:
                self.memory.most, place = self.memory.now, number
            if number == until:
                break
            self._end(node)
        return place

    def parts(self) -> Peak:
        """Returns what the memory is used for now."""
        memory = self.memory
        live = {buffer for buffer, holders in memory.holders.items() if holders}
        results = {self.buffer[name] for name in self.outputs if name in self.buffer} & live - self.inputs
        read_later = {name for node in self.order if not self.forward >= {*node.outputs} for name in node.inputs}
        activations = {self.buffer[name] for name in read_later & self.forward if name in self.buffer} & live
        activations -= self.inputs | results
        consumed = self.consumed & live
        groups = (self.inputs & live - consumed, consumed, results, activations)
        inputs, taken, done, later = (sum(memory.sizes[buffer] for buffer in group) for group in groups)
        return Peak(memory.now, inputs, taken, done, later, memory.now - inputs - taken - done - later, memory.largest)

    def _compute(self, node: Node) -> None:
        """Gives the outputs of a node their buffers."""
        temporaries = [self.memory.make(size) for size in self._temporaries(node)]
        for buffer in temporaries:
            self.memory.hold(buffer)
        read = {self.buffer[name] for name in node.inputs}
        for number, name in enumerate(node.outputs):
            self.buffer[name], self.strides[name] = self._output(node, number, name)
            for _ in range(self.readers[name] + (name in self.outputs)):
                self.memory.hold(self.buffer[name])
        reading = [buffer for buffer in read if buffer != self.buffer[node.outputs[0]]]
        for buffer in reading:
            self.memory.hold(buffer)
        self.dispatched += _DISPATCHES.get(node.op, 1 if node.op in (*_SHARE, *_RESHAPE) else 2)
        self.queue.append((self.dispatched, [*reading, *temporaries]))

    def _end(self, node: Node) -> None:
        """Lets go of what a node has read, and of what the operations read that have ended by now."""
        for name in node.inputs:
            self.memory.release(self.buffer[name])
        while self.queue and self.queue[0][0] <= self.dispatched - self.device.in_flight:
            for buffer in self.queue.popleft()[1]:
                self.memory.release(buffer)

    def _output(self, node: Node, number: int, name: str) -> tuple[int, Strides]:
        shape, source = self.graph.shapes[name], node.inputs[0] if node.inputs else ""
        if node.op in _SHARE:
            source = node.inputs[number if node.op == "Depends" else -1 if node.op == OWN else 0]
            return self.buffer[source], self._view(node, source, shape)
        if node.op in _RESHAPE:
            strides = self._reshaped(source, shape)
            if strides is not None:
                return self.buffer[source], strides
            return self.memory.make(self._bytes(name)), _row(shape)
        size = self._bytes(name)
        if node.op not in _OWN:
            for read in node.inputs:
                buffer = self.buffer[read]
                if self.memory.holders[buffer] == 1 and self.memory.sizes[buffer] == size and self._dense(read):
                    return buffer, self.strides[read]
        layout = next((self.strides[r] for r in node.inputs if self.graph.shapes[r] == shape and self._dense(r)), None)
        return self.memory.make(size), _row(shape) if layout is None or node.op in _OWN else layout

    def _view(self, node: Node, source: str, shape: tuple[int, ...]) -> Strides:
        strides, before = self.strides[source], self.graph.shapes[source]
        if node.op == "Transpose":
            return tuple(strides[axis] for axis in node.attributes["perm"])
        if node.op in ("Broadcast", "BroadcastAxes"):
            front = len(shape) - len(before)
            return (0,) * front + tuple(
                0 if a == 1 and b != 1 else s for a, b, s in zip(before, shape[front:], strides, strict=True)
            )
        if node.op == "Slice":
            return tuple(s * step for s, step in zip(strides, node.attributes["stride"], strict=True))
        return strides

    def _reshaped(self, source: str, shape: tuple[int, ...]) -> Strides | None:
        """Returns the strides of a reshaped array that shares its buffer, None where it must be copied."""
        before, strides = self.graph.shapes[source], self.strides[source]
        if strides == _row(before):
            return _row(shape)
        if not math.prod(shape):
            return _row(shape)
        array = np.lib.stride_tricks.as_strided(np.empty(1, np.int8), before, strides)
        try:
            array.shape = shape
        except AttributeError:
            return None
        return array.strides

    def _dense(self, name: str) -> bool:
        """Whether an array is all of its buffer, in any order of its axes."""
        return 0 not in self.strides[name] and self.memory.sizes[self.buffer[name]] == self._bytes(name)

    def _bytes(self, name: str) -> int:
        return math.prod(self.graph.shapes[name]) * self.graph.dtypes[name].size

    def _temporaries(self, node: Node) -> Sequence[int]:
        """Returns the sizes in bytes of what an operation needs beside its inputs and outputs."""
        if node.op == "Convolution":
            return self._of_convolution(node) if self.device.unfolds else ()
        if node.op in ("Matmul", "AddMM"):
            return [self._bytes(name) for name in node.inputs[:2] if not self._is_matrix(name)]
        return ()

    def _of_convolution(self, node: Node) -> list[int]:
        shapes = [self.graph.shapes[name] for name in node.inputs]
        (batch, height, width, channels), (_, *kernel, _) = shapes
        low, high = node.attributes["low"], node.attributes["high"]
        out = self.graph.shapes[node.outputs[0]]
        if max(*node.attributes["input_dilation"], *node.attributes["kernel_dilation"]) > 1:
            return []
        padded = batch * (height + low[0] + high[0]) * (width + low[1] + high[1]) * channels
        unfolded = math.prod(out[:-1]) * math.prod(kernel) * channels
        sizes = [4 * padded, 4 * unfolded]
        weight = 4 * math.prod(shapes[1])
        exact = self.graph.dtypes[node.outputs[0]].size == 4
        if not exact or self.strides[node.inputs[1]] != _row(shapes[1]):
            sizes.append(weight)
        if node.attributes["flip"]:
            sizes.append(weight)
        return sizes if exact else [*sizes, 4 * math.prod(out)]

    def _is_matrix(self, name: str) -> bool:
        """Whether the last two axes of an array are a matrix as BLAS takes it."""
        *_, down, across = self.strides[name]
        *_, rows, columns = self.graph.shapes[name]
        return (across == 1 and down in (columns, 0)) or (down == 1 and across == rows) or 1 in (rows, columns)


def _row(shape: Sequence[int]) -> Strides:
    """Returns the strides, in elements, of an array whose rows follow each other."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _ancestors(graph: Graph, name: str | None) -> set[str]:
    """Returns all values that a value is computed from, itself with them."""
    if name is None:
        return set()
    producers = {output: node for node in graph.nodes for output in node.outputs}
    visited, stack = {name}, [name]
    while stack:
        node = producers.get(stack.pop())
        for read in node.inputs if node else ():
            if read not in visited:
                visited.add(read)
                stack.append(read)
    return visited
