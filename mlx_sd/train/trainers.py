"""The trainer of a kind of training with its settings: optimizer, learning rates, averages."""

from typing import Any

import mlx.core as mx

from ..checkpoint.model import Model
from .kind_table import Kind
from .kinds import distill
from .learning.kind_settings import ControlSettings, LoraSettings, UNetSettings
from .learning.optimizers import Group, GroupedOptimizer
from .learning.settings import TrainSettings
from .learning.trainer import Average, Rates, Trainer

BETAS = (0.9, 0.999)


def trainer_of(
    kind: Kind, settings: TrainSettings, learner: Any, model: Model, average_over_ranks: Average | None = None
) -> Trainer[Any]:
    """Returns what takes the steps of a learner, which `Kind.build` made of the model.

    average_over_ranks: averages gradients of several processes.
    """
    rate = settings.rate or kind.rate(settings)
    decay = kind.weight_decay if settings.weight_decay is None else settings.weight_decay
    text_rate = settings.text_rate if isinstance(settings, LoraSettings) else None
    groups = [Group("layers.text_encoder", text_rate / rate)] if text_rate is not None else []
    networks_learn = kind.folder(settings) or isinstance(settings, ControlSettings)  # and not adapters alone
    half = model.dtype if model.dtype != mx.float32 and networks_learn else None
    decay_of_averages = settings.average if isinstance(settings, UNetSettings) else None
    if isinstance(learner, distill.Distillation):
        decay_of_averages = learner.average_decay
    trainer: Trainer[Any] = Trainer(
        learner.learned,
        learner.loss,
        GroupedOptimizer(settings.optimizer, decay, BETAS, groups),
        Rates(rate, settings.steps, settings.schedule, settings.warmup),
        clip=settings.clip or None,
        average_decay=decay_of_averages,
        average_over_ranks=average_over_ranks,
        compute_dtype=half,
        hint=_hint(model, rate, kind.rate(settings)),
    )
    if isinstance(learner, distill.Distillation) and decay_of_averages is not None:
        learner.follow(lambda: trainer.averages)
    return trainer


def _hint(model: Model, rate: float, usual: float) -> str:
    """Returns what is likely wrong where a loss is not finite, as the end of a sentence."""
    causes = []
    if model.dtype == mx.float16:
        causes.append("float16 overflows: --dtype bfloat16")
    if rate > 10 * usual:
        causes.append(f"the learning rate {rate:g} is large: {usual:g} is usual")
    return f" ({'; '.join(causes) or 'a smaller --rate, or --clip 1'}); the last checkpoint stays"
