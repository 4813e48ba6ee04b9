"""The checkpoint that is trained on, as the files of a training name it and its layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import mlx.nn as nn

from ... import resolve
from ...checkpoint.model import Model
from ...checkpoint.model_folder import TEXT, network_configs, read_model_json
from ...core.errors import InputError
from ...networks.family import Family
from ...networks.layers import QuantizedLinear

FAMILIES = (Family.SD1, Family.SD2, Family.SDXL)  # those whose files other programs read
_PROJECTIONS = (".proj_in", ".proj_out")  # convolutions in some checkpoints, linear in others, here always linear

LayerKey = tuple[str, str]  # network, and the layer's path in it: ("unet", "middle.layers.1.proj_in")


class Layer(NamedTuple):
    """A linear layer or a convolution of the checkpoint."""

    name: str  # as diffusers writes it
    original: str  # as the original code called it, if it is in the UNet
    shape: tuple[int, ...]  # of its weight in the checkpoint, as in torch: (out, in) or (out, in, h, w)


@dataclass(frozen=True)
class BaseModel:
    """A checkpoint that is trained on."""

    name: str  # of a file or folder without those around it
    family: Family
    prediction: str  # as of `Scheduler.prediction_type`
    side: int  # pixels of the pictures that it was made for
    sha256: str | None  # of a single file
    layers: Mapping[LayerKey, Layer]

    @classmethod
    def of(cls, model: Model) -> "BaseModel":
        """Describes a loaded model, before any adapter is put beside its layers.

        InputError for families whose adapters no other program reads.
        """
        if model.family not in FAMILIES:
            names = ", ".join(family.value for family in FAMILIES)
            raise InputError(f"{model.name} is {model.family.value}; adapters and embeddings are written for {names}")
        return cls(
            Path(model.name).name if Path(model.name).expanduser().exists() else model.name,
            model.family,
            model.scheduler.prediction_type,
            model.unet.config.sample_size * model.vae.config.downsampling,
            model.checkpoint_hash,
            _layers(model),
        )


def _layers(model: Model) -> dict[LayerKey, Layer]:
    convolutions = model.family is Family.SD1
    if model.folder is not None:
        config = network_configs(read_model_json(model.folder))["unet"]
        convolutions = not config.get("use_linear_projection")
    layers = {}
    for part, network in {"unet": model.unet, **dict(zip(TEXT, model.text_encoders, strict=False))}.items():
        for path, module in network.named_modules():
            if shape := _shape(module):
                name, original = resolve.layer_names(part, network.names, path)
                kernel = (1, 1) if convolutions and part == "unet" and name.endswith(_PROJECTIONS) else ()
                layers[part, path] = Layer(name, original, (*shape, *kernel))
    return layers


def _shape(module: nn.Module) -> tuple[int, ...] | None:
    """The shape of a layer's weight as in torch; None where the module is no layer that has low-rank factors."""
    if isinstance(module, QuantizedLinear):
        return (module.scales.shape[0], module.scales.shape[1] * module.group)
    if isinstance(module, nn.Conv2d):
        outputs, height, width, inputs = module.weight.shape
        return (outputs, inputs, height, width)
    return tuple(module.weight.shape) if isinstance(module, nn.Linear) else None
