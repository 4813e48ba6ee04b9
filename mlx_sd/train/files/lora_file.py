"""Writes a LoRA in the names of kohya's scripts, which A1111, ComfyUI, diffusers and `--lora` read, or in PEFT's."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ...core.errors import InputError
from ...core.suggestions import unknown
from ...networks.family import Family
from . import safetensors_file
from .base_model import BaseModel, Layer, LayerKey
from .safetensors_file import DTYPES, numbers_of
from .training_record import Rank, TrainingRecord, describe_lora

SPELLINGS = ("kohya", "diffusers")
_ONE_ENCODER = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
_TWO_ENCODERS = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


class LowRankWeights(NamedTuple):
    """The factors of what is added to a layer's weight, alpha / rank * up @ down, in MLX' layout."""

    down: mx.array  # (rank, in), or of a convolution (rank, h, w, in)
    up: mx.array  # (out, rank), or (out, 1, 1, rank)
    alpha: float

    @property
    def rank(self) -> int:
        """Returns the number of rows of `down`."""
        return self.down.shape[0]


def write(
    path: Path,
    layers: Mapping[LayerKey, LowRankWeights],
    base: BaseModel,
    record: TrainingRecord | None = None,
    *,
    spelling: str = "kohya",
    dtype: str = "float16",
    force: bool = False,
) -> str:
    """Writes a LoRA, whole or not at all, and returns the SHA-256 of the file.

    layers: by ("unet", "text_encoder" or "text_encoder_2", path of the layer). base: the checkpoint, described before
    adapters stood beside its layers. record: what the metadata say of the training.

    spelling: "kohya" writes lora_down, lora_up and alpha; the layers of SDXL's UNet have the original code's names
    there, those of others diffusers'. "diffusers" writes lora_A and lora_B, as PEFT does, without an alpha: the factor
    alpha / rank is in lora_B, because not every reader looks for alphas under these names. Of alphas that differ
    between layers diffusers reads those of the UNet alone.

    dtype: of the factors, "float16" or "float32"; alphas are float32 always, because 0.1 is not a half-precision
    number. force: an existing file may be replaced.

    InputError for layers that the checkpoint lacks, shapes and ranks that do not fit, and the errors of
    `safetensors_file.check`. Failure for numbers that are not finite, and where writing fails.
    """
    if spelling not in SPELLINGS:
        raise unknown("spelling", spelling, SPELLINGS)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if not layers:
        raise InputError(f"{path}: there is no layer to write; name layers that are trained")
    safetensors_file.check(path, force)
    xl = base.family is Family.SDXL
    prefixes = _TWO_ENCODERS if xl else _ONE_ENCODER
    arrays: dict[str, np.ndarray] = {}
    ranks: list[Rank] = []
    kernels: list[Rank] = []
    for (part, layer), weights in layers.items():
        where = f"{part} {layer}"
        if (part, layer) not in base.layers:
            raise InputError(f"{where} is no linear layer and no convolution of {base.name}; no LoRA can be for it")
        target = base.layers[part, layer]
        down, up = factors(weights, target, where)
        if spelling == "kohya":
            module = prefixes[part] + (target.original if xl else target.name).replace(".", "_")
            arrays[f"{module}.lora_down.weight"] = numbers_of(down, dtype, where)
            arrays[f"{module}.lora_up.weight"] = numbers_of(up, dtype, where)
            arrays[f"{module}.alpha"] = np.array(weights.alpha, np.float32)
        else:
            scaled = up.astype(mx.float32) * (weights.alpha / weights.rank)
            arrays[f"{part}.{target.name}.lora_A.weight"] = numbers_of(down, dtype, where)
            arrays[f"{part}.{target.name}.lora_B.weight"] = numbers_of(scaled, dtype, where)
        (ranks if set(target.shape[2:]) <= {1} else kernels).append((weights.rank, float(weights.alpha)))
    metadata = describe_lora(base, record or TrainingRecord(), path.stem, ranks, kernels)
    return safetensors_file.write(path, arrays, metadata, force)


def factors(weights: LowRankWeights, target: Layer, where: str) -> tuple[mx.array, mx.array]:
    """Returns factors as in torch, (rank, in, ...) and (out, rank, ...), with as many axes as the checkpoint's weight.

    where: names the layer in errors. InputError where factors or alpha do not fit the layer.
    """
    outputs, inputs, *kernel = target.shape
    down, up = (_channels_first(factor, len(target.shape)) for factor in weights[:2])
    if down.ndim < 2 or up.ndim < 2 or not down.shape[0] or down.shape[0] != up.shape[1]:
        raise InputError(f"{where}: down {weights.down.shape} and up {weights.up.shape} are not of one rank")
    expected = (weights.rank, inputs, *kernel), (outputs, weights.rank, *[1 for _ in kernel])
    if (down.shape, up.shape) != expected:
        raise InputError(
            f"{where}: down {weights.down.shape} and up {weights.up.shape} do not fit its weight, "
            f"{target.shape} in the checkpoint"
        )
    if not (math.isfinite(weights.alpha) and weights.alpha > 0):  # readers take 0 for 0, or for an alpha that is absent
        raise InputError(f"{where}: alpha is {weights.alpha:g}; it must be a number above 0")
    return down, up


def _channels_first(factor: mx.array, axes: int) -> mx.array:
    """A factor with its channels first, and with axes of size 1 behind where the checkpoint's weight has more."""
    if factor.ndim == 4:
        return factor.transpose(0, 3, 1, 2)
    return factor.reshape(*factor.shape, *[1] * (axes - factor.ndim)) if factor.ndim == 2 else factor
