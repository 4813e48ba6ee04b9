"""A trained ControlNet -> the folder that diffusers, and --control, read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_sd.checkpoint.model_folder import CONTROL
from mlx_sd.core.files import atomic_folder
from mlx_sd.networks.control import ControlNet
from mlx_sd.networks.control_config import CLASS

from ..files.safetensors_stream import write_tensors
from .diffusers_folder import network_entries

# The fields of a UNet's config that a ControlNet for it has too.
_SHARED = """
    _diffusers_version act_fn addition_embed_type addition_embed_type_num_heads addition_time_embed_dim
    attention_head_dim block_out_channels class_embed_type cross_attention_dim down_block_types downsample_padding
    flip_sin_to_cos freq_shift in_channels layers_per_block mid_block_scale_factor norm_eps norm_num_groups
    num_attention_heads num_class_embeds only_cross_attention projection_class_embeddings_input_dim
    transformer_layers_per_block upcast_attention use_linear_projection
"""


def control_config(network: ControlNet, unet: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a ControlNet's config as diffusers saves it; unet: the config of the UNet that it is for."""
    config = network.config
    return {
        "_class_name": CLASS,
        **{name: unet[name] for name in _SHARED.split() if name in unet},
        "conditioning_channels": config.image_channels,
        "conditioning_embedding_out_channels": list(config.embedding_channels),
        "controlnet_conditioning_channel_order": "bgr" if config.bgr else "rgb",
        "global_pool_conditions": config.pools,
    }


def write_control_folder(network: ControlNet, unet: Mapping[str, Any], out: Path, dtype: mx.Dtype = mx.float32) -> None:
    """Writes the folder `out`, which must not exist, complete or not at all; unet: as of `control_config`."""
    config = control_config(network, unet)
    entries = network_entries(CONTROL, config, network, dtype)
    with atomic_folder(out, sum(entry.size for entry in entries)) as home:
        (home / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_tensors(home / "diffusion_pytorch_model.safetensors", entries, lambda size: None, format="pt")
