"""Random LoRAs as a training has them, in our layout, and what they mean, by the definition."""

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_sd.checkpoint.model import Model
from mlx_sd.train.files.base_model import BaseModel, LayerKey
from mlx_sd.train.files.lora_file import LowRankWeights
from tests.support.families import numbers

Layers = Mapping[LayerKey, LowRankWeights]


def networks(model: Model) -> dict[str, Any]:
    parts = zip(("text_encoder", "text_encoder_2"), model.text_encoders, strict=False)
    return {"unet": model.unet, **dict(parts)}


def parameters(model: Model) -> dict[tuple[str, str], np.ndarray]:
    """(network, parameter) -> its numbers."""
    return {
        (part, name): np.array(array)
        for part, network in networks(model).items()
        for name, array in tree_flatten(network.parameters())
    }


def layers(model: Model, rank: int = 4, alpha: float = 2.0, *, kernel_rank: int = 3, pattern: str = "") -> Layers:
    """A LoRA for all linear layers and convolutions whose name in the checkpoint has the pattern."""
    made = {}
    weights = parameters(model)
    for key, layer in BaseModel.of(model).layers.items():
        if not re.search(pattern, layer.name):
            continue
        outputs, *others = weights[key[0], f"{key[1]}.weight"].shape
        r = kernel_rank if len(others) == 3 and others[0] > 1 else rank
        down = numbers(f"{key} down", r, *others) * 0.3
        up = numbers(f"{key} up", outputs, *[1] * (len(others) - 1), r) * 0.3
        made[key] = LowRankWeights(mx.array(down), mx.array(up), alpha)
    return made


def difference(weights: LowRankWeights, dtype: type) -> np.ndarray:
    """alpha / rank * up @ down of the numbers that a file of this dtype holds, channel-last, in double precision."""
    down, up = (np.array(factor).astype(dtype).astype(np.float64) for factor in weights[:2])
    rank = len(down)
    return np.einsum("or,r...->o...", up.reshape(-1, rank), down) * (weights.alpha / rank)
