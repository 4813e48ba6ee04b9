"""Tiny random T2I-Adapters of every kind: configs, weights and images, without torch."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from convert.files.diffusers_names import diffusers_name
from mlx_sd.checkpoint.model_folder import build, shapes
from tests.support import families
from tests.support.families import Config

GAIN = 3.0  # of the last convolution of each residual block, so that a random adapter moves the picture

# Kind -> (family, what its config has beside the class). The tiny SDXL has four pixels a side for a latent, SD 2 two.
KINDS: dict[str, tuple[str, Config]] = {
    "full": ("sd1", {"adapter_type": "full_adapter", "channels": [32, 32, 64, 64], "downscale_factor": 8}),
    "grey": (
        "sd1",
        {"adapter_type": "full_adapter", "channels": [32, 32, 64, 64], "downscale_factor": 8, "in_channels": 1},
    ),
    "light": (
        "sd1",
        {"adapter_type": "light_adapter", "channels": [32, 32, 64], "downscale_factor": 8, "num_res_blocks": 4},
    ),
    "sd2": ("sd2v", {"adapter_type": "full_adapter", "channels": [32, 32, 64, 64], "downscale_factor": 2}),
    "xl": ("sdxl", {"adapter_type": "full_adapter_xl", "channels": [32, 64, 64, 64], "downscale_factor": 8}),
}


def config(kind: str) -> Config:
    """Returns the config of a kind, as diffusers saves it."""
    return {"_class_name": "T2IAdapter", "_diffusers_version": "0.42.1", "in_channels": 3, "num_res_blocks": 2} | KINDS[
        kind
    ][1]


def weights(values: Config) -> dict[str, np.ndarray]:
    """Returns random weights by diffusers' names."""
    network = build("t2i_adapter", values, "tiny")
    arrays = {}
    for parameter, shape in shapes(network).items():
        name = diffusers_name("t2i_adapter", network.names, parameter)
        array = families.tensor("t2i", name, [shape[0], shape[3], *shape[1:3]] if len(shape) == 4 else list(shape))
        arrays[name] = array * GAIN if ".block2." in name or "conv_in" in name else array
    return arrays


def write_folder(folder: Path, kind: str) -> Path:
    """Writes an adapter as diffusers saves it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(kind)), encoding="utf-8")
    save_file(weights(config(kind)), folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return folder


def original(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns weights by the names of the authors' code, in which residual blocks stand in one row."""
    light = any("out_conv" in name for name in arrays)
    resnets = len({name.split(".")[4] for name in arrays if ".resnets." in name})
    renamed = {}
    for name, array in arrays.items():
        parts = name.removeprefix("adapter.").split(".")
        if parts[0] == "body":
            block, inside = int(parts[1]), parts[2:]
            if light:
                parts = ["body", str(block), *(["body", *inside[1:]] if inside[0] == "resnets" else inside)]
            else:
                number = int(inside[1]) if inside[0] == "resnets" else 0
                parts = ["body", str(block * resnets + number), *(inside[2:] if inside[0] == "resnets" else inside)]
        renamed[".".join(parts)] = array
    return renamed


def picture(size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Image.Image:
    """Returns an image for an adapter."""
    rough = np.random.RandomState(7).randint(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).convert(mode)
