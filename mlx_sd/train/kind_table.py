"""The kinds of training by name: settings, what learns, and the form of the result."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ..checkpoint.model import Model
from .kinds import control, distill, embedding, lora, prune, unet
from .learning.examples import Captions
from .learning.kind_settings import (
    ControlSettings,
    DistillSettings,
    EmbeddingSettings,
    LoraSettings,
    PruneSettings,
    UNetSettings,
)
from .learning.objective import Objective
from .learning.settings import TrainSettings
from .pictures import Pictures

# (model, settings, captions, objective, pictures, whether a run goes on) -> what learns
Builder = Callable[[Model, Any, Captions, Objective, Pictures, bool], Any]


class Kind(NamedTuple):
    """What the session knows of one kind of training."""

    settings: type[TrainSettings]
    build: Builder
    rate: Callable[[Any], float]  # the learning rate where the settings have none
    weight_decay: float
    folder: Callable[[Any], bool]  # whether the result of settings is a folder, and no file
    summary: str
    result: str  # what is written, for people to read


def _plain(kind: Callable[..., Any]) -> Builder:
    """Returns how a kind is built that needs neither pictures nor the knowledge that a run goes on."""
    return lambda model, settings, captions, objective, _pictures, _resumed: kind(model, settings, captions, objective)


def _pruned(
    model: Model, settings: PruneSettings, captions: Captions, objective: Objective, pictures: Pictures, resumed: bool
) -> prune.Prune:
    def batches() -> list[Any]:
        """Returns the micro-batches that channels are scored on."""
        numbers = range(settings.score_batches)
        return [next(iter(pictures.step(number))) for number in numbers]

    return prune.build(model, settings, captions, objective, batches, resumed=resumed)


def _rate_of_unet(settings: UNetSettings) -> float:
    return unet.SCRATCH_RATE if settings.scratch else unet.RATE


def _rate_of_student(settings: DistillSettings) -> float:
    return distill.FULL_RATE if settings.student == "full" else distill.RATE


def _rate_of_pruned(settings: PruneSettings) -> float:
    return unet.SCRATCH_RATE if settings.scratch else prune.RATE


def _rate_of_control(settings: ControlSettings) -> float:
    return control.RATE if settings.rank is None else control.LOW_RANK_RATE


def _always(value: Any) -> Callable[[TrainSettings], Any]:
    """Returns a function that has one value for all settings."""
    return lambda _settings: value


KINDS = {
    "lora": Kind(
        LoraSettings,
        _plain(lora.Lora),
        _always(lora.RATE),
        lora.WEIGHT_DECAY,
        _always(False),
        "a LoRA: a style, a thing, a person",
        "a .safetensors file",
    ),
    "embedding": Kind(
        EmbeddingSettings,
        _plain(embedding.TextualInversion),
        _always(embedding.RATE),
        embedding.WEIGHT_DECAY,
        _always(False),
        "a textual inversion: a new word",
        "a .safetensors file",
    ),
    "control": Kind(
        ControlSettings,
        _plain(control.Control),
        _rate_of_control,
        control.WEIGHT_DECAY,
        lambda settings: settings.rank is None,
        "a ControlNet, or a Control-LoRA",
        "a folder; with --rank a .safetensors file",
    ),
    "unet": Kind(
        UNetSettings,
        _plain(unet.WholeUNet),
        _rate_of_unet,
        unet.WEIGHT_DECAY,
        _always(True),
        "the whole UNet",
        "a folder",
    ),
    "distill": Kind(
        DistillSettings,
        _plain(distill.Distillation),
        _rate_of_student,
        distill.WEIGHT_DECAY,
        lambda settings: settings.student == "full",
        "a student that needs few steps: TCD or LCM",
        "a .safetensors file; with --student full a folder",
    ),
    "prune": Kind(
        PruneSettings,
        _pruned,
        _rate_of_pruned,
        prune.WEIGHT_DECAY,
        _always(True),
        "a smaller UNet, which learns what it lost",
        "a folder",
    ),
}
