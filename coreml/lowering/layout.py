"""The order in which a tensor's axes are stored: transposes only relabel axes, and most reshapes move no numbers.

The networks are channel-last, Core ML wants channels first. Instead of transposing, every value remembers which of
the network's axes each storage axis holds, and operations ask for the order they need.
"""

from dataclasses import dataclass
from typing import Any

Order = tuple[int | None, ...]  # storage axis i holds the network's axis order[i]; None: an axis of size 1 in storage

IMAGE: Order = (0, 3, 1, 2)  # the network's (B, H, W, C) is stored as (B, C, H, W)
TOKENS: Order = (0, 2, None, 1)  # the network's (B, S, C) is stored as (B, C, 1, S)
ROWS: Order = (0, 1, 2)  # the network's (B, S, C) is stored as it is


@dataclass(frozen=True)
class Value:
    """A tensor of the network: `var` holds its numbers, in storage order `order`, and reads as an array of `sizes`."""

    var: Any  # a builder's variable, a numpy array known at conversion, or a `lower.Parameter`
    sizes: tuple[int, ...]  # of the storage axes; `var` may still have another shape with the same order of numbers
    order: Order

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape as the network has it."""
        sizes = {axis: size for axis, size in zip(self.order, self.sizes, strict=True) if axis is not None}
        return tuple(sizes[axis] for axis in range(len(sizes)))


def plain(var: Any) -> Value:
    """Returns a value that is stored in the network's own order of axes."""
    shape = tuple(int(size) for size in var.shape)
    return Value(var, shape, tuple(range(len(shape))))


def transposed(value: Value, perm: list[int]) -> Value:
    """Returns the value with its axes permuted as numpy.transpose does; no numbers move."""
    return Value(value.var, value.sizes, tuple(None if a is None else perm.index(a) for a in value.order))


def reshaped(value: Value, shape: tuple[int, ...]) -> Value | None:
    """Returns the value in another shape of the network, or None where numbers would have to move in storage.

    Both shapes are cut into the smallest runs of axes with equal products. The reshape is free where the axes of each
    run lie side by side, in their order, in storage.
    """
    runs = _runs(value.shape, shape)
    run_of = {axis: run for run in runs for axis in run[0]}
    stored = [axis for axis in value.order if axis is not None and value.shape[axis] > 1]
    order: list[int] = []
    i = 0
    while i < len(stored):
        before, after = run_of[stored[i]]
        large = [axis for axis in before if value.shape[axis] > 1]
        if stored[i : i + len(large)] != large:
            return None
        order += after
        i += len(large)
    for axis in (axis for before, after in runs if all(value.shape[a] == 1 for a in before) for axis in after):
        order.insert(order.index(axis - 1) + 1 if axis - 1 in order else 0, axis)  # of size 1: after its neighbour
    return Value(value.var, tuple(shape[axis] for axis in order), tuple(order))


def path(value: Value, order: Order) -> tuple[tuple[int, ...], list[int] | None, tuple[int, ...]]:
    """Returns how to bring a value into a storage order: (shape to read it in, permutation or None, final shape)."""
    shape = value.shape
    target = tuple(1 if axis is None else shape[axis] for axis in order)

    def large(axes: Order) -> list[int]:
        """Returns the axes that are longer than one."""
        return [axis for axis in axes if axis is not None and shape[axis] > 1]

    if large(value.order) == large(order):
        return target, None, target
    if len(order) == len(value.order):  # one permutation, with the axes of size 1 moved along
        free = [i for i, axis in enumerate(value.order) if axis not in large(order)]
        perm = [value.order.index(axis) if axis in large(order) else free.pop(0) for axis in order]
        return value.sizes, perm, target
    core = large(value.order)
    return tuple(shape[axis] for axis in core), [core.index(axis) for axis in large(order)], target


def _runs(a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Returns pairs of runs of axes, one of each shape, whose sizes have equal products."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        left, right = ([i] if i < len(a) else []), ([j] if j < len(b) else [])
        m, n = (a[i] if left else 1), (b[j] if right else 1)
        i, j = i + len(left), j + len(right)
        while m != n:
            if m < n:
                left.append(i)
                m, i = m * a[i], i + 1
            else:
                right.append(j)
                n, j = n * b[j], j + 1
        runs.append((left, right))
    return runs
