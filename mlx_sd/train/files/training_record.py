"""What a file says about the training that made it, in kohya's words (ss_) and in those of ModelSpec 1.0.1."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from ...core.version import VERSION
from ...networks.family import Family
from .base_model import BaseModel

# Family -> its name in ss_base_model_version, and in modelspec.architecture; both for epsilon and for v
_VERSIONS = {
    Family.SD1: ("sd_v1", "sd_v1_v"),
    Family.SD2: ("sd_v2", "sd_v2_v"),
    Family.SDXL: ("sdxl_base_v1-0", "sdxl_base_v1-0"),  # A1111 knows SDXL by how this begins
}
_ARCHITECTURES = {
    Family.SD1: ("stable-diffusion-v1", "stable-diffusion-v1"),
    Family.SD2: ("stable-diffusion-v2-512", "stable-diffusion-v2-768-v"),
    Family.SDXL: ("stable-diffusion-xl-v1-base", "stable-diffusion-xl-v1-base"),
}
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}  # ModelSpec has no others
_STABILITY = "https://github.com/Stability-AI/generative-models"

Rank = tuple[int, float]  # of a layer, with its alpha


def _entry(name: str) -> Any:
    """A field that is written under this name, where it is known."""
    return field(default=None, metadata={"name": name})


@dataclass(frozen=True)
class TrainingRecord:
    """The facts of a training; those that are None are left out of the file."""

    title: str | None = None  # None is the file's name
    trigger_phrase: str | None = None  # the words that call up what was learnt
    resolution: tuple[int, int] | None = _entry("ss_resolution")  # (width, height)
    pictures: int | None = _entry("ss_num_train_images")
    prior_pictures: int | None = _entry("ss_num_reg_images")
    tag_frequency: Mapping[str, Mapping[str, int]] | None = _entry("ss_tag_frequency")  # folder -> tag -> how often
    bucket_info: Mapping[str, Any] | None = _entry("ss_bucket_info")
    steps: int | None = _entry("ss_steps")
    total_steps: int | None = _entry("ss_max_train_steps")  # that the training was to have
    epoch: int | None = _entry("ss_epoch")
    batch: int | None = _entry("ss_total_batch_size")
    accumulation: int | None = _entry("ss_gradient_accumulation_steps")
    seed: int | None = _entry("ss_seed")
    learning_rate: float | None = _entry("ss_learning_rate")
    unet_learning_rate: float | None = _entry("ss_unet_lr")
    text_learning_rate: float | None = _entry("ss_text_encoder_lr")
    schedule: str | None = _entry("ss_lr_scheduler")
    warmup: int | None = _entry("ss_lr_warmup_steps")
    optimizer: str | None = _entry("ss_optimizer")
    clipping: float | None = _entry("ss_max_grad_norm")
    min_snr_gamma: float | None = _entry("ss_min_snr_gamma")
    noise_offset: float | None = _entry("ss_noise_offset")
    caption_dropout: float | None = _entry("ss_caption_dropout_rate")
    prior_weight: float | None = _entry("ss_prior_loss_weight")
    zero_terminal_snr: bool | None = _entry("ss_zero_terminal_snr")
    clip_skip: int | None = _entry("ss_clip_skip")
    precision: str | None = _entry("ss_mixed_precision")
    comment: str | None = _entry("ss_training_comment")
    started: float | None = _entry("ss_training_started_at")  # seconds since 1970
    finished: float | None = _entry("ss_training_finished_at")


def describe_lora(
    base: BaseModel, record: TrainingRecord, name: str, ranks: Sequence[Rank], convolutions: Sequence[Rank]
) -> dict[str, str]:
    """Returns the metadata of a LoRA's file.

    name: of the file, without its suffix. ranks, convolutions: (rank, alpha) of the layers that are linear or
    convolutions of size 1, and of the larger convolutions (LoCon).
    """
    main, kernels = (ranks, convolutions) if ranks else (convolutions, ())
    arguments = {"conv_dim": _common(kernels, 0), "conv_alpha": _common(kernels, 1)} if kernels else {}
    return _described(base, record, name, "lora") | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": _common(main, 0),
        "ss_network_alpha": _common(main, 1),
        "ss_network_args": json.dumps(arguments),
    }


def describe_embedding(base: BaseModel, record: TrainingRecord, name: str) -> dict[str, str]:
    """Returns the metadata of a textual inversion's file; name: of the file, without its suffix."""
    return _described(base, record, name, "textual-inversion")


def describe_control(base: BaseModel, record: TrainingRecord, name: str, ranks: Sequence[Rank]) -> dict[str, str]:
    """Returns the metadata of a Control-LoRA's file; the arguments are those of `describe_lora`."""
    return _described(base, record, name, "control-lora") | {"ss_network_dim": _common(ranks, 0)}


def _described(base: BaseModel, record: TrainingRecord, name: str, kind: str) -> dict[str, str]:
    predicts_v = base.prediction == "v_prediction"
    width, height = record.resolution or (base.side, base.side)
    stability = base.family is Family.SDXL or kind != "lora"
    values = {
        "ss_v2": base.family is Family.SD2,
        "ss_base_model_version": _VERSIONS[base.family][predicts_v],
        "ss_sd_model_name": base.name,
        "ss_new_sd_model_hash": base.sha256,
        "ss_output_name": name,  # by which A1111 lists it
        **{f.metadata["name"]: getattr(record, f.name) for f in fields(record) if "name" in f.metadata},
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_ARCHITECTURES[base.family][predicts_v]}/{kind}",
        "modelspec.implementation": _STABILITY if stability else "diffusers",
        "modelspec.implementation_version": f"mlx-sd/{VERSION}",
        "modelspec.title": record.title or name,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": _PREDICTIONS.get(base.prediction),
        "modelspec.trigger_phrase": record.trigger_phrase,
        "modelspec.encoder_layer": record.clip_skip,
        "modelspec.date": None if record.finished is None else _date(record.finished),
    }
    return {key: _text(value) for key, value in values.items() if value is not None}


def _common(pairs: Sequence[Rank], index: int) -> str:
    """The rank or alpha that all layers have; "Dynamic", as kohya's scripts say, where they differ."""
    values = {pair[index] for pair in pairs}
    return str(values.pop()) if len(values) == 1 else "Dynamic"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat()


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Mapping) else str(value)
