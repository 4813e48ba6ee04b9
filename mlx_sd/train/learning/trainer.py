"""One step of training: gradients of micro-batches are averaged, clipped and applied; and the state between steps.

The step knows nothing of pictures. Its loss is a function of a micro-batch, its parameters are those of one module,
and everything that the next step needs is in `state`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map, tree_unflatten

from ...core import interrupt
from ...core.errors import Failure
from ...ranks.exchange import Ranks
from . import optimizers
from .optimizers import GroupedOptimizer, arrays_of

Batch = TypeVar("Batch")
Tree = Any  # nested dictionaries and lists of arrays, as MLX's modules have their parameters
Average = Callable[[Tree], Tree]

_WEIGHTS, _AVERAGES, _OPTIMIZER = "weights", "averages", "optimizer"


class Step(NamedTuple):
    """The numbers of one step."""

    loss: float
    gradient_norm: float
    rate: float


@dataclass(frozen=True)
class Rates:
    """Learning rates over a run."""

    peak: float
    steps: int
    schedule: str = "constant"
    warmup: int = 0

    def at(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        return optimizers.rate(self.schedule, self.peak, step, self.steps, self.warmup)


def norm_of(gradients: Tree) -> mx.array:
    """Returns the norm () of all gradients together."""
    return mx.sqrt(mx.stack([mx.square(a.astype(mx.float32)).sum() for a in arrays_of(gradients).values()]).sum())


class Trainer(Generic[Batch]):
    """Learns the trainable parameters of a module by descending a loss."""

    def __init__(
        self,
        learned: nn.Module,
        loss: Callable[[Batch], mx.array],
        optimizer: GroupedOptimizer,
        rates: Rates,
        *,
        clip: float | None = 1.0,
        average_decay: float | None = None,
        average_over_ranks: Average | None = None,
        compute_dtype: mx.Dtype | None = None,
        hint: str = "",
    ):
        """loss: of one micro-batch, a mean over its examples.

        clip: largest norm of all gradients together; None does not clip. average_decay: of averaged weights, None keeps
        none. average_over_ranks: averages gradients of several processes. compute_dtype: of the parameters while the
        loss is computed; they are kept in their own. hint: what is likely wrong where the loss is not finite.
        """
        self.learned, self._loss, self.optimizer, self._rates = learned, loss, optimizer, rates
        self._clip, self._decay, self._hint = clip, average_decay, hint
        self._average_over_ranks, self._compute_dtype = average_over_ranks or (lambda tree: tree), compute_dtype
        self._gradients = mx.value_and_grad(self.loss_of)
        self.step = 0
        optimizer.init(learned.trainable_parameters())
        self.averages: Tree = tree_map(mx.array, learned.trainable_parameters()) if average_decay else None

    def run(self, batches: Iterable[Batch]) -> Step:
        """Takes one step on micro-batches of equal size, and returns its numbers.

        Raises Failure where the loss is not finite; the parameters are then as they were before the step.
        """
        losses, total, count = [], None, 0
        for batch in batches:
            loss, gradients = self._gradients(self.learned.trainable_parameters(), batch)
            total = gradients if total is None else tree_map(mx.add, total, gradients)
            del gradients  # arrays that nobody else holds are written into
            mx.eval(loss, total)  # one micro-batch's activations at a time
            losses.append(loss)
            count += 1
        mean = mx.stack(losses).mean()
        self._check_finite(loss=float(mean.item()))  # type: ignore[arg-type]
        total = total if count == 1 else tree_map(lambda gradient: gradient / count, total)
        gradients, mean = self._average_over_ranks((total, mean))
        del total
        norm = norm_of(gradients)
        mx.eval(mean, norm)
        numbers = float(mean.item()), float(norm.item())  # type: ignore[arg-type]
        self._check_finite(loss=numbers[0], gradient=numbers[1])
        rate = self._rates.at(self.step)
        with interrupt.deferred():  # the state is that of one step, also where Ctrl-C saves it
            self.move(gradients, norm, rate)
            del gradients
            mx.eval(self.learned.trainable_parameters(), self.optimizer.state, self.averages or {})
        return Step(*numbers, rate)

    def move(self, gradients: Tree, norm: mx.array, rate: float) -> None:
        """Moves parameters and averages against gradients, which are clipped by their norm; MLX computes it later."""
        if self._clip is not None:
            factor = mx.minimum(self._clip / (norm + 1e-6), 1.0)
            gradients = tree_map(lambda gradient: gradient * factor.astype(gradient.dtype), gradients)
        self.optimizer.update(self.learned, gradients, rate)
        self.step += 1
        if self.averages is not None:
            self._move_averages()

    def losses(self, batches: Iterable[Batch]) -> list[float]:
        """Returns the loss of each micro-batch without learning from them."""
        parameters = self.learned.trainable_parameters()
        return [float(self.loss_of(parameters, batch).item()) for batch in batches]  # type: ignore[arg-type]

    def measure(self, batches: Sequence[Batch]) -> float:
        """Returns the mean loss of micro-batches without learning from them."""
        return sum(self.losses(batches)) / len(batches)

    def state(self) -> dict[str, dict[str, mx.array]]:
        """Returns everything that the next steps depend on, by part and name."""
        parts = {_WEIGHTS: arrays_of(self.learned.trainable_parameters()), _OPTIMIZER: self.optimizer.state}
        return parts if self.averages is None else parts | {_AVERAGES: arrays_of(self.averages)}

    def restore(self, step: int, parts: Mapping[str, Mapping[str, mx.array]]) -> None:
        """Continues after `step` steps with a state of `state`."""
        self.learned.update(tree_unflatten(list(parts[_WEIGHTS].items())))
        if self.averages is not None:
            self.averages = tree_unflatten(list(parts[_AVERAGES].items()))
        self.optimizer.restore(parts[_OPTIMIZER], self.learned.trainable_parameters())
        self.step = step
        mx.eval(self.learned.parameters())

    def share(self, ranks: Ranks) -> None:
        """Gives the state of the first of several ranks to all of them."""
        if ranks.size == 1:
            return
        step = int(ranks.share_text(str(self.step)))
        self.restore(step, {part: ranks.share(arrays) for part, arrays in self.state().items()})

    def _check_finite(self, **numbers: float) -> None:
        """Raises Failure where a number of this step is not finite."""
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise Failure(f"the {name} is not finite at step {self.step + 1}{self._hint}")

    def loss_of(self, parameters: Tree, batch: Batch) -> mx.array:
        """Returns the loss of a micro-batch with these parameters in the place of the module's own."""
        before = self.learned.trainable_parameters()
        dtype = self._compute_dtype
        try:
            self.learned.update(parameters if dtype is None else tree_map(lambda a: a.astype(dtype), parameters))
            return self._loss(batch)
        finally:
            self.learned.update(before)

    def _move_averages(self) -> None:
        """Moves averaged weights towards the new ones; at first they follow them closely (Karras et al. 2023)."""
        assert self._decay is not None
        keep = min(self._decay, (1 + self.step) / (10 + self.step))
        weights = self.learned.trainable_parameters()
        self.averages = tree_map(lambda mean, weight: mean + (1 - keep) * (weight - mean), self.averages, weights)
