"""Tiny random IP-Adapters of every kind and their image encoder: configs, weights and images, without torch."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from convert.files.diffusers_names import diffusers_name
from mlx_sd.checkpoint.model_folder import build, shapes
from mlx_sd.networks.ip_adapter import cross_attentions
from mlx_sd.networks.unet import UNet
from tests.support import families
from tests.support.families import Config

GAIN = 3.0  # of keys and values, so that a random adapter moves the picture
WIDTH, PROJECTION = 64, 24  # of the image encoder
KINDS = ("base", "plus", "full")
ENCODER: Config = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "attention_dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": WIDTH,
    "image_size": 32,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "patch_size": 8,
    "projection_dim": PROJECTION,
}


def config(kind: str, unet: UNet) -> Config:
    """Returns the config of a kind for a UNet, as `convert` reads it off the weights."""
    attentions = [layer.q.weight.shape[0] for _, layer in cross_attentions(unet)]
    context = cross_attentions(unet)[0][1].k.weight.shape[1]
    values: Config = {"kind": kind, "context": context, "attentions": attentions, "inputs": WIDTH}
    values |= {"tokens": 0, "hidden": 0, "heads": 0, "layers": 0}
    if kind == "base":
        return values | {"inputs": PROJECTION, "tokens": 4}
    return values | ({"tokens": 5, "hidden": 128, "heads": 2, "layers": 4} if kind == "plus" else {})


def arrays(kind: str, unet: UNet) -> dict[str, np.ndarray]:
    """Returns random weights by the names of a file."""
    network = build("ip_adapter", config(kind, unet), kind)
    weights = {}
    for parameter, shape in shapes(network).items():
        name = diffusers_name("ip_adapter", network.names, parameter)
        array = families.tensor("ip", name, list(shape))
        weights[name] = array * (GAIN if "_ip." in name else 1)
    for name in [name for name in weights if name.endswith("to_k.weight")]:
        stacked = [weights.pop(name), weights.pop(name.replace("to_k", "to_v"))]
        weights[name.replace("to_k", "to_kv")] = np.concatenate(stacked)
    return weights


def write(file: Path, kind: str, unet: UNet) -> Path:
    """Writes an adapter as the authors save it, with its image encoder beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays(kind, unet), file)
    if not (file.parent / "image_encoder").exists():
        write_encoder(file.parent / "image_encoder")
    return file


def encoder_arrays() -> dict[str, np.ndarray]:
    """Returns random weights of the image encoder by transformers' names."""
    network = build("image_encoder", ENCODER, "encoder")
    weights = {}
    for parameter, shape in shapes(network).items():
        name = diffusers_name("image_encoder", network.names, parameter)
        first = [shape[0], shape[3], *shape[1:3]] if len(shape) == 4 else list(shape)
        weights[name] = families.tensor("vision", name, first)
    return weights


def write_encoder(folder: Path) -> Path:
    """Writes the image encoder as transformers saves it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(ENCODER), encoding="utf-8")
    save_file(encoder_arrays(), folder / "model.safetensors", {"format": "pt"})
    return folder


def pictures(count: int = 1, size: tuple[int, int] = (48, 40)) -> Sequence[Image.Image]:
    """Returns images for an adapter."""
    random = np.random.RandomState(11)
    rough = [random.randint(0, 256, (5, 6, 3), np.uint8) for _ in range(count)]
    return [Image.fromarray(array).resize(size, Image.Resampling.BICUBIC) for array in rough]


def half_mask(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Returns a mask of the left side."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[:, : size[0] // 2] = 255
    return Image.fromarray(mask)
