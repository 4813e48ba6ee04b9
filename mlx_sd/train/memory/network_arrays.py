"""The arrays that networks and their trainer hold, each once, so that a graph can have them as its inputs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from ..learning.trainer import Trainer


class NetworkArrays:
    """The parameters of modules and the averages of a trainer, by names without meaning."""

    def __init__(self, modules: Sequence[nn.Module], trainer: Trainer[Any] | None = None):
        """modules: may hold the same arrays."""
        self._modules, self._trainer = modules, trainer
        self._trees: list[Any] = [module.parameters() for module in modules]
        self._averages = trainer.averages if trainer else None
        flat: Any = tree_flatten([self._trees, [] if self._averages is None else self._averages])
        unique = {id(array): array for _, array in flat}
        self._names = {key: f"array{number}" for number, key in enumerate(unique)}
        self.arrays = {self._names[key]: array for key, array in unique.items()}

    @contextmanager
    def replaced(self, arrays: Mapping[str, mx.array]) -> Iterator[None]:
        """Puts arrays of the same names in the place of all of them while it is open."""

        def stand_in(array: mx.array) -> mx.array:
            """Returns what stands for an array."""
            return arrays[self._names[id(array)]]

        for module, tree in zip(self._modules, self._trees, strict=True):
            module.update(tree_map(stand_in, tree))
        if self._trainer:
            self._trainer.averages = None if self._averages is None else tree_map(stand_in, self._averages)
        try:
            yield
        finally:
            for module, tree in zip(self._modules, self._trees, strict=True):
                module.update(tree)
            if self._trainer:
                self._trainer.averages = self._averages
