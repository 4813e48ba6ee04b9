"""How a tensor of the network is stored: transposes only relabel, reshapes move nothing where they need not.

The networks are channel-last, Core ML wants channels first. Instead of transposing, every value remembers which of
the network's axes each storage axis holds, and operations ask for the order they need.
"""

from dataclasses import dataclass
from typing import Any

Order = tuple[int | None, ...]

IMAGE: Order = (0, 3, 1, 2)  # (B, C, H, W)
TOKENS: Order = (0, 2, None, 1)  # (B, C, 1, S)


@dataclass(frozen=True)
class Value:
    """A tensor: `var` holds its numbers, in an order that reads as an array of `sizes`.

    order: storage axis i is the network's axis order[i]; None is an axis of one that only storage has.
    """

    var: Any  # a MIL variable, or a numpy array known at conversion
    sizes: tuple[int, ...]
    order: Order

    @property
    def shape(self) -> tuple[int, ...]:
        """As the network sees it."""
        where = {axis: size for axis, size in zip(self.order, self.sizes, strict=True) if axis is not None}
        return tuple(where[axis] for axis in range(len(where)))


def plain(var: Any) -> Value:
    """A value stored as the network sees it."""
    shape = tuple(int(size) for size in var.shape)
    return Value(var, shape, tuple(range(len(shape))))


def transposed(value: Value, perm: list[int]) -> Value:
    """Axes permuted as numpy.transpose does; nothing moves."""
    return Value(value.var, value.sizes, tuple(None if a is None else perm.index(a) for a in value.order))


def reshaped(value: Value, shape: tuple[int, ...]) -> Value | None:
    """The network's reshape to `shape`, or None where numbers would have to move.

    Both shapes are cut into the smallest runs of axes with equal products; it is free where the axes of each run lie
    side by side, in their order, in storage.
    """
    runs = _runs(value.shape, shape)
    run_of = {axis: run for run in runs for axis in run[0]}
    stored = [axis for axis in value.order if axis is not None and value.shape[axis] > 1]
    order: list[int] = []
    i = 0
    while i < len(stored):
        before, after = run_of[stored[i]]
        big = [axis for axis in before if value.shape[axis] > 1]
        if stored[i : i + len(big)] != big:
            return None
        order += after
        i += len(big)
    for axis in (axis for before, after in runs if all(value.shape[a] == 1 for a in before) for axis in after):
        order.insert(order.index(axis - 1) + 1 if axis - 1 in order else 0, axis)  # of size one: where a reader looks
    return Value(value.var, tuple(shape[axis] for axis in order), tuple(order))


def path(value: Value, order: Order) -> tuple[tuple[int, ...], list[int] | None, tuple[int, ...]]:
    """How to get a value into an order: (sizes to read it as, how to permute those or None, sizes afterwards)."""
    shape = value.shape
    target = tuple(1 if axis is None else shape[axis] for axis in order)

    def big(o: Order) -> list[int]:
        return [axis for axis in o if axis is not None and shape[axis] > 1]

    if big(value.order) == big(order):
        return target, None, target
    if len(order) == len(value.order):  # one permutation, axes of one moved along
        free = [i for i, axis in enumerate(value.order) if axis not in big(order)]
        perm = [value.order.index(axis) if axis in big(order) else free.pop(0) for axis in order]
        return value.sizes, perm, target
    core = big(value.order)
    return tuple(shape[axis] for axis in core), [core.index(axis) for axis in big(order)], target


def _runs(a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
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
