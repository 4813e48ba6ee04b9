"""The settings that all kinds of training share: a frozen record for the command line, JSON and Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...core.errors import InputError
from ...request import DTYPES
from ...setting import Range, fields_from_json, setting, settings_of
from . import optimizers

COUNT, SHARE = Range(1), Range(0, 1)
POSITIVE, NOT_NEGATIVE = Range(0, open_minimum=True), Range(0)
_SIZE = re.compile(r"(\d+)(?:x(\d+))?$")


def parse_size(value: Any) -> tuple[int, int]:
    """Returns (width, height) in pixels of 512, "512" or "768x512"; InputError for anything else."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return value[0], value[1]
    match = _SIZE.match(str(value))
    if not match:
        raise InputError(f"resolution must be a size in pixels, as 512 or 768x512, not {value!r}")
    return int(match[1]), int(match[2] or match[1])


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What all kinds of training take. None is the kind's or the checkpoint's default."""

    model: str = setting("tiny", "a converted or diffusers folder, a .safetensors file or a hub id", aliases="m base")
    data: str = setting(
        "",
        "pictures with captions: NAME.txt beside each, metadata.jsonl, train.jsonl, folders as 10_WORDS, kohya's FILE",
        metavar="DIR",
        aliases="instance-data-dir train-data-dir dataset",
        empty=True,
    )
    caption: str | None = setting(
        None, "of all pictures, where they have none of their own", metavar="TEXT", aliases="instance-prompt"
    )
    steps: int = setting(
        1000, "steps of the optimizer", kind=int, range=COUNT, aliases="max-train-steps iterations iters"
    )
    batch: int = setting(1, "pictures in a micro-batch", kind=int, range=COUNT, aliases="train-batch-size batch-size")
    accumulate: int = setting(
        1,
        "micro-batches in a step, whose gradients are averaged",
        kind=int,
        range=COUNT,
        aliases="gradient-accumulation-steps grad-accumulate",
    )
    rate: float | None = setting(
        None, "learning rate (default: by kind)", kind=float, range=POSITIVE, aliases="learning-rate lr"
    )
    schedule: str = setting(
        "constant", "of the learning rate", choices=optimizers.SCHEDULES, aliases="lr-scheduler lr-schedule"
    )
    warmup: int = setting(
        0, "steps over which the learning rate rises", kind=int, range=NOT_NEGATIVE, aliases="lr-warmup-steps"
    )
    optimizer: str = setting("adamw", "of the weights", choices=optimizers.OPTIMIZERS, aliases="optimizer-type")
    weight_decay: float | None = setting(
        None, "of the optimizer (default: by kind)", kind=float, range=NOT_NEGATIVE, aliases="adam-weight-decay"
    )
    clip: float = setting(
        1.0,
        "largest norm of the gradients; 0 does not clip",
        kind=float,
        range=NOT_NEGATIVE,
        aliases="max-grad-norm",
    )
    resolution: tuple[int, int] | None = setting(
        None,
        "of training, in pixels: the area that pictures are scaled to (default: the checkpoint's)",
        kind=object,
        parse=parse_size,
        to_json=lambda value: value and list(value),
        metavar="SIZE",
        aliases="size image-size",
    )
    flip: bool = setting(False, "mirror half of the pictures", kind=bool, aliases="random-flip flip-aug")
    random_crop: bool = setting(
        False, "cut pictures at random places, not in the middle; latents are then not kept", kind=bool
    )
    snr_gamma: float | None = setting(
        None,
        "weigh timesteps by min-SNR with this gamma; 5 is usual",
        kind=float,
        range=POSITIVE,
        aliases="min-snr-gamma",
    )
    noise_offset: float = setting(0.0, "shift of whole channels of the noise; 0.05 is usual", kind=float, range=SHARE)
    input_perturbation: float = setting(
        0.0, "more noise in the input alone; 0.1 is usual", kind=float, range=SHARE, aliases="ip-noise-gamma"
    )
    caption_dropout: float = setting(
        0.0,
        "share of captions that are left out",
        kind=float,
        range=SHARE,
        aliases="caption-dropout-rate proportion-empty-prompts",
    )
    dtype: str | None = setting(
        None,
        "of the networks while training (default: bfloat16 on a GPU, float32 on the CPU)",
        choices=DTYPES,
        aliases="mixed-precision precision",
    )
    recompute: bool = setting(
        False,
        "compute inner results again for gradients: less memory, a third slower",
        kind=bool,
        aliases="gradient-checkpointing grad-checkpoint",
    )
    seed: int = setting(0, "of all random numbers", kind=int, range=Range(0, 2**32 - 1))
    cache: str | None = setting(
        None, "folder that keeps encoded pictures and captions (default: memory)", metavar="DIR"
    )
    keep_encoders: bool = setting(
        False,
        "keep autoencoder and text encoders in memory when all is encoded; sample pictures then begin sooner",
        kind=bool,
    )
    save_every: int = setting(
        100, "steps between checkpoints of the run", kind=int, range=COUNT, aliases="checkpointing-steps"
    )
    validate_every: int = setting(
        50,
        "steps between losses at fixed noise and timesteps; 0 is never",
        kind=int,
        range=NOT_NEGATIVE,
        aliases="validation-steps",
    )
    sample_every: int = setting(0, "steps between sample pictures; 0 is never", kind=int, range=NOT_NEGATIVE)
    sample_prompts: tuple[str, ...] = setting(
        (),
        "prompt of a sample picture; may be repeated (default: the first captions)",
        kind=object,
        repeat=True,
        parse=lambda value: (value,) if isinstance(value, str) else tuple(value),
        to_json=list,
        flag="--sample-prompt",
        aliases="validation-prompt",
    )

    def check(self) -> None:
        """Raises InputError where a value has a wrong type or is out of range."""
        for name, description in settings_of(type(self)).items():
            description.check(name, getattr(self, name))

    def with_values(self, **values: Any) -> Any:
        """Returns the settings with other values, checked."""
        described = settings_of(type(self))
        return replace(self, **{name: described[name].check(name, value) for name, value in values.items()})

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as JSON."""
        described = settings_of(type(self))
        return {name: described[name].to_json(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Any:
        """Returns the settings of a JSON object; InputError names `where` and the wrong key."""
        return cls(**fields_from_json(settings_of(cls), values, where))
