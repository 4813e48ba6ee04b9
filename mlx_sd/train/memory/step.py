"""The graphs of a step: the gradients of a micro-batch, and what is made of them."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..learning.examples import MicroBatch
from ..learning.optimizers import arrays_of
from ..learning.trainer import Trainer, norm_of
from .buffers import Device, Peak, peak
from .network_arrays import NetworkArrays
from .tracing import Recorder, record

_TOTAL, _GRADIENT, _STATE = "total", "gradient", "state"


def gradients_peak(
    trainer: Trainer[Any], modules: Sequence[nn.Module], batch: MicroBatch, accumulates: bool, device: Device
) -> Peak:
    """Returns the memory of loss and gradients of a micro-batch, with the arrays that they are computed from.

    modules: all networks that the loss may read. accumulates: gradients of other micro-batches are there already.
    """
    inputs = NetworkArrays([*modules, trainer.learned], trainer)
    learned = arrays_of(trainer.learned.trainable_parameters())
    totals = {f"{_TOTAL}{i}": array for i, array in enumerate(learned.values())} if accumulates else {}

    def step(recorder: Recorder, **arrays: mx.array) -> list[mx.array]:
        """Returns the loss and the gradients."""
        with inputs.replaced(arrays):
            names, values = zip(*arrays_of(trainer.learned.trainable_parameters()).items(), strict=True)

            def loss(*parameters: mx.array) -> mx.array:
                """Returns the loss of parameters in a row."""
                return trainer.loss_of(tree_unflatten(list(zip(names, parameters, strict=True))), batch)

            value, gradients = recorder.value_and_gradients(loss, values, mx.array(1.0))
        if totals:
            gradients = [arrays[name] + gradient for name, gradient in zip(totals, gradients, strict=True)]
        return [value, *gradients]

    graph = record(step, {**inputs.arrays, **totals})
    consumed = [name for name, parameter in graph.parameters.items() if parameter in totals]
    return peak(graph, graph.outputs[0], consumed, device)


def update_peak(trainer: Trainer[Any], device: Device) -> Peak:
    """Returns the memory of the optimizer's step: parameters, gradients, the optimizer's state and averages with it."""
    parameters = arrays_of(trainer.learned.trainable_parameters())
    state = trainer.optimizer.state
    groups: dict[str, list[mx.array]] = {
        _GRADIENT: list(parameters.values()),
        _STATE: list(state.values()),
    }
    inputs = NetworkArrays([trainer.learned], trainer)

    def update(_: Recorder, **arrays: mx.array) -> list[mx.array]:
        """Returns everything that the step changes."""
        before = trainer.step

        def rows(group: str) -> list[mx.array]:
            """Returns the arrays of a group."""
            return [arrays[f"{group}{i}"] for i in range(len(groups[group]))]

        with inputs.replaced(arrays):
            current = trainer.learned.trainable_parameters()
            gradients = tree_unflatten(list(zip(parameters, rows(_GRADIENT), strict=True)))
            trainer.optimizer.restore(dict(zip(state, rows(_STATE), strict=True)), current)
            trainer.move(gradients, norm_of(gradients), 1e-4)
            trainer.step = before
            changed = (trainer.learned.trainable_parameters(), trainer.optimizer.state, trainer.averages or {})
            flat: Any = tree_flatten(changed)
        return [array for _, array in flat]

    others = {f"{group}{i}": array for group, arrays in groups.items() for i, array in enumerate(arrays)}
    try:
        graph = record(update, {**inputs.arrays, **others})
    finally:
        trainer.optimizer.restore(state, trainer.learned.trainable_parameters())
    return peak(graph, None, list(graph.parameters), device)
