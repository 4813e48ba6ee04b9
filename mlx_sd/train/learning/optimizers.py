"""Optimizers by name, learning rates over the steps, and their state as flat arrays."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

OPTIMIZERS = ("adamw", "adam", "adafactor", "lion", "sgd")
SCHEDULES = ("constant", "cosine", "linear")


def arrays_of(tree: Any) -> dict[str, mx.array]:
    """Returns the arrays of a tree by their names with dots."""
    flat: Any = tree_flatten(tree)
    return dict(flat)


class Group(NamedTuple):
    """Parameters whose names begin in one way, and by how much their learning rate differs from the others'."""

    beginning: str
    factor: float


class GroupedOptimizer:
    """An optimizer of each group of parameters, and one of all others."""

    def __init__(self, name: str, weight_decay: float, betas: tuple[float, float], groups: Sequence[Group] = ()):
        """betas: decays of Adam's and Lion's means."""
        self._factors = [*(group.factor for group in groups), 1.0]
        filters = [lambda path, _, group=group: path.startswith(group.beginning) for group in groups]
        self._optimizer = optim.MultiOptimizer([_make(name, weight_decay, betas) for _ in self._factors], filters)

    def init(self, parameters: Any) -> None:
        """Begins with zero means for the parameters."""
        self._optimizer.init(parameters)

    def update(self, module: nn.Module, gradients: Any, rate: float) -> None:
        """Moves the parameters of a module against their gradients."""
        for optimizer, factor in zip(self._optimizer.optimizers, self._factors, strict=True):
            optimizer.learning_rate = rate * factor
        self._optimizer.update(module, gradients)

    @property
    def state(self) -> dict[str, mx.array]:
        """Returns the state by name."""
        return arrays_of(self._optimizer.state)

    def restore(self, arrays: Mapping[str, mx.array], parameters: Any) -> None:
        """Continues with a `state`."""
        self.init(parameters)
        self._optimizer.state = tree_unflatten(list(arrays.items()))


def _make(name: str, weight_decay: float, betas: tuple[float, float]) -> optim.Optimizer:
    # Adam's means are corrected for their start at zero, as in the paper and in PyTorch; MLX does not by default.
    makers: dict[str, Callable[[], optim.Optimizer]] = {
        "adamw": lambda: optim.AdamW(0.0, list(betas), weight_decay=weight_decay, bias_correction=True),
        "adam": lambda: optim.Adam(0.0, list(betas), bias_correction=True),
        "adafactor": lambda: optim.Adafactor(
            0.0, relative_step=False, scale_parameter=False, weight_decay=weight_decay
        ),
        "lion": lambda: optim.Lion(0.0, list(betas), weight_decay),
        "sgd": lambda: optim.SGD(0.0, momentum=betas[0], weight_decay=weight_decay),
    }
    return makers[name]()


def rate(schedule: str, peak: float, step: int, steps: int, warmup: int) -> float:
    """Returns the learning rate of a step, counted from 0: it rises over `warmup` steps, then follows the schedule."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * share))
    return peak * (1 - share) if schedule == "linear" else peak
