"""Tiny random ControlNets of every kind: configs, weights and images, without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from convert.files.diffusers_names import diffusers_name
from mlx_sd import Control, DeepCache, StableDiffusion
from mlx_sd.checkpoint.model_folder import build, shapes
from tests.support import families, singles
from tests.support.families import FAMILIES, Config

Arrays = dict[str, np.ndarray]

_SHARED = """
    act_fn addition_embed_type addition_embed_type_num_heads addition_time_embed_dim attention_head_dim
    block_out_channels cross_attention_dim down_block_types downsample_padding flip_sin_to_cos freq_shift
    layers_per_block mid_block_scale_factor norm_eps norm_num_groups projection_class_embeddings_input_dim
    transformer_layers_per_block upcast_attention use_linear_projection
"""
GAIN = 3.0  # of the zero convolutions, so that a random network moves the picture


def shared(unet: Config) -> Config:
    """The fields of a UNet's config that a ControlNet for it has too."""
    return {name: unet[name] for name in _SHARED.split() if name in unet}


def config(family: str, **changes: Any) -> Config:
    """The config of a ControlNet for a tiny family, as diffusers saves it."""
    unet, vae = FAMILIES[family]["unet"], FAMILIES[family]["vae"]
    halvings = len(vae["block_out_channels"]) - 1
    return {
        "_class_name": "ControlNetModel",
        "_diffusers_version": "0.42.1",
        **shared(unet),
        "class_embed_type": None,
        "conditioning_channels": 3,
        "conditioning_embedding_out_channels": [4, 8, 8, 16][: halvings + 1],
        "controlnet_conditioning_channel_order": "rgb",
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "global_pool_conditions": False,
        "in_channels": 4,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "resnet_time_scale_shift": "default",
    } | changes


# SDXL's smaller ControlNets: fewer transformers, or none
MID = {"transformer_layers_per_block": [0, 1, 1], "mid_block_type": "UNetMidBlock2D"}
SMALL = {"down_block_types": ["DownBlock2D"] * 3, "mid_block_type": "UNetMidBlock2D"}
KINDS: dict[str, tuple[str, Config]] = {
    "sd1": ("sd1", {}),
    "sd2v": ("sd2v", {}),
    "sdxl": ("sdxl", {}),
    "sdxl-mid": ("sdxl", MID),
    "sdxl-small": ("sdxl", SMALL),
}


def union(modes: int = 6, **changes: Any) -> Config:
    """The config of a union for the tiny SDXL."""
    values = {"_class_name": "ControlNetUnionModel", "num_control_type": modes, "num_trans_channel": 32}
    values |= {"num_trans_head": 4, "num_trans_layer": 2, "num_proj_channel": 32}
    return config("sdxl") | values | {"conditioning_embedding_out_channels": [8, 12, 16]} | changes


def weight(name: str, shape: list[int], seed: str = "control") -> np.ndarray:
    """The weight of a name, in diffusers' spelling; another seed is another network."""
    array = families.tensor(seed, name, shape)
    zero = name.startswith(("controlnet_down", "controlnet_mid"))
    return array * (GAIN if zero else 1)


def weights(values: Config, seed: str = "control") -> Arrays:
    """The weights of a config by diffusers' names, channel-first as torch has them."""
    network: Any = build("control", values, "config.json")
    arrays: Arrays = {}
    linear = values.get("use_linear_projection")
    for parameter, shape in shapes(network).items():
        name = diffusers_name("control", network.names, parameter)
        if len(shape) == 4:
            shape = (shape[0], shape[3], shape[1], shape[2])
        elif not linear and name.endswith((".proj_in.weight", ".proj_out.weight")):
            shape = (*shape, 1, 1)
        arrays[name] = weight(name, list(shape), seed)
    return arrays


def write_folder(path: Path, values: Config, arrays: Mapping[str, np.ndarray] | None = None) -> Path:
    """Writes a diffusers folder."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    save_file(dict(arrays or weights(values)), path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return path


def original(arrays: Mapping[str, np.ndarray], values: Config) -> Arrays:
    """Weights by diffusers' names -> by those of the authors' code, numbered as its constructor does."""
    blocks = 2 * (len(values["conditioning_embedding_out_channels"]) - 1)
    places = {"conv_in": 0, **{f"blocks.{i}": 2 * (i + 1) for i in range(blocks)}, "conv_out": 2 * (blocks + 1)}
    named: Arrays = {}
    shared: Arrays = {}
    for name, array in arrays.items():
        first, _, inside = name.partition(".")
        if first == "controlnet_cond_embedding":
            layer, _, parameter = inside.rpartition(".")
            named[f"input_hint_block.{places[layer]}.{parameter}"] = array
        elif first == "controlnet_down_blocks":
            number, _, parameter = inside.partition(".")
            named[f"zero_convs.{number}.0.{parameter}"] = array
        elif first == "controlnet_mid_block":
            named[f"middle_block_out.0.{inside}"] = array
        else:
            shared[name] = array
    unet = {**values, "up_block_types": ["UpBlock2D"] * len(values["block_out_channels"])}
    return named | singles.unet(shared, unet)


def image(name: str = "control", size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A picture (width, height) of colours without meaning, the same everywhere."""
    width, height = size
    numbers = families.numbers(f"{name} image", height // 8, width // 8, 3)
    coarse = Image.fromarray(np.clip(127 + 80 * numbers, 0, 255).astype(np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def check_driven(sd: StableDiffusion, packaged: StableDiffusion, entry: Control, steps: Config, branch: int) -> None:
    """Asserts that an export with one control network makes sd's picture, cached too, and that the network moves it.

    entry: of the network in MLX; its image is made anew, of the largest size of the export.
    """
    width, height = packaged.model.sizes[-1]
    settings = steps | {"width": width, "height": height}
    if packaged.unet.branches:
        settings |= {"deepcache": DeepCache(2, branch)}
    shown, (stem,) = image(size=(width, height)), packaged.model.packaged_controls or {}
    plain = sd.generate("a tent", **settings).latents
    expected = sd.generate("a tent", controls=[entry._replace(image=shown)], **settings).latents
    assert families.distance(expected, plain) >= 0.1
    driven = packaged.generate("a tent", controls=[(stem, shown, entry.scale)], **settings).latents
    assert families.distance(driven, expected) <= 1e-3
