"""The memory that a step of a training will need, counted from shapes before anything is loaded."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from ..core.errors import Failure, InputError
from ..load import outline
from ..networks import ops
from ..resolve import model_folder
from .checks import check_model
from .data.buckets import Size
from .data.dataset import Dataset
from .idle_networks import IdleNetworks
from .kind_table import KINDS
from .kinds.control import Control
from .learning.examples import MicroBatch
from .learning.kind_settings import EmbeddingSettings
from .learning.objective import Objective
from .learning.optimizers import arrays_of
from .learning.settings import TrainSettings
from .learning.trainer import Trainer
from .memory.buffers import CPU, GPU, Device
from .memory.outlines import CaptionShapes, micro_batch, model_outline, networks_of
from .memory.plan import MemoryPlan, Residents
from .memory.step import gradients_peak, update_peak
from .pictures import buckets_of
from .trainers import trainer_of


def plan_of(kind: str, settings: TrainSettings, data: Dataset) -> MemoryPlan:
    """Returns the memory of a step on the largest pictures.

    Raises InputError where settings or data do not fit, Failure where MLX does not record the graph of the step.
    """
    model = outline(str(model_folder(settings.model)))
    assert model is not None  # its folder is converted
    check_model(model)
    table = buckets_of(model, settings)
    sizes = {table.bucket_of(example.size).size for example in data.examples}
    captions = [example.caption for example in data.examples]
    priors = any(example.prior for example in data.examples)
    largest = max(sizes, key=lambda size: size[0] * size[1])
    try:
        return memory_plan(kind, settings, largest, captions, priors=priors)
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise Failure(f"the memory of a step is not known: {error}") from None


def memory_plan(
    kind: str,
    settings: TrainSettings,
    size: Size,
    captions: Sequence[str] = (),
    *,
    priors: bool = False,
    gpu: bool | None = None,
) -> MemoryPlan:
    """Counts the memory of a step from the shapes of its graph; no weight is loaded and nothing is computed.

    size: (width, height) in pixels of the largest pictures. captions: all of them, the longest of which sets the length
    of the text. priors: whether each micro-batch has as many pictures of the class beside its own. gpu: whether the
    training runs on one; None is where MLX runs here.
    """
    gpu = bool(mx.default_device() != mx.cpu) if gpu is None else gpu
    dtype = settings.dtype or ("bfloat16" if gpu else "float32")
    with ops.as_on_gpu() if gpu else nullcontext():
        prepared = prepare(kind, settings, size, captions, priors, dtype)
        return _count(prepared, settings.accumulate > 1, GPU if gpu else CPU)


class Prepared(NamedTuple):
    """A training whose networks have no weights yet, and a micro-batch of zeros."""

    trainer: Trainer[Any]
    networks: list[nn.Module]  # all that the loss may read
    resident: list[nn.Module]  # those whose weights are in memory while it learns
    batch: MicroBatch


def prepare(
    kind: str, settings: TrainSettings, size: Size, captions: Sequence[str], priors: bool, dtype: str
) -> Prepared:
    """Returns a training by the settings; arguments as of `memory_plan`. dtype: of networks that do not learn."""
    model = model_outline(settings, dtype)
    texts, word = list(captions) or [""], ""
    if isinstance(settings, EmbeddingSettings):
        word = settings.token
    shapes = CaptionShapes(model, texts)
    objective = Objective.of(model.scheduler, settings.snr_gamma, settings.noise_offset, settings.input_perturbation)
    pictures: Any = None  # channels are not scored here: it does not change their number
    learner = KINDS[kind].build(model, settings, shapes, objective, pictures, True)
    idle = IdleNetworks(model, settings, replaced=hasattr(learner, "model"))
    beside = [learner.network] if isinstance(learner, Control) else []
    resident = [network for part, network in networks_of(model).items() if part not in idle.networks]
    for network in idle.networks.values():  # whatever was computed of them leaves memory, as in a training
        network.update(tree_map(mx.zeros_like, network.parameters()))
    model = getattr(learner, "model", model)
    longest = max((text for text in texts if word in text), key=len, default=word)
    return Prepared(
        trainer_of(KINDS[kind], settings, learner, model),
        [*networks_of(model).values(), *beside],
        [*resident, *beside],
        micro_batch(model, settings, size, longest, priors),
    )


def _count(prepared: Prepared, accumulates: bool, device: Device) -> MemoryPlan:
    trainer = prepared.trainer
    learned = arrays_of(trainer.learned.trainable_parameters())
    moments = [*trainer.optimizer.state.values(), *arrays_of(trainer.averages or {}).values()]
    always = Residents(
        _bytes(prepared.resident, exclude=learned.values()),
        sum(array.nbytes for array in learned.values()),
        sum(array.nbytes for array in moments),
    )
    gradients = gradients_peak(trainer, prepared.networks, prepared.batch, accumulates, device)
    update = update_peak(trainer, device)
    return max(always.with_gradients(gradients), always.with_update(update), key=lambda plan: plan.peak)


def _bytes(networks: Sequence[nn.Module], exclude: Any) -> int:
    """Returns the bytes of the arrays of networks, each counted once, without some of them."""
    left_out = {id(array) for array in exclude}
    arrays = {id(array): array for network in networks for array in arrays_of(network.parameters()).values()}
    return sum(array.nbytes for key, array in arrays.items() if key not in left_out)
