"""Hugging Face configs from the shapes of weights, for files without configs, pruned networks among them."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor

Config = dict[str, Any]

_HEAD = 64  # width of an attention head, wherever the number of heads is not fixed
_GROUPS = 32
_SIZE_WIDTH = 256  # of each of SDXL's embedded sizes
_LARGEST = 1 << 20  # of all sizes that a network here may have


class Shapes:
    """Answers questions about tensors by diffusers' names: their dimensions, the number of blocks or layers."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str):
        self.tensors, self.where = tensors, where
        self._children: dict[str, set[str]] = defaultdict(set)
        for name in tensors:
            segments = name.split(".")
            for i, segment in enumerate(segments):
                self._children[".".join(segments[:i])].add(segment)

    def dim(self, name: str, axis: int) -> int:
        """Returns the size of an axis; InputError where there is no such tensor or axis."""
        shape = self.tensors[name].shape if name in self.tensors else ()
        if len(shape) <= axis or not 0 < shape[axis] <= _LARGEST:
            raise InputError(f"{self.where}: no {name} to read the network's size off")
        return shape[axis]

    def count(self, place: str) -> int:
        """Returns how many children a place has: blocks, layers, resnets."""
        return len(self._children.get(place, ()))

    def has(self, place: str) -> bool:
        """Returns whether there is a tensor of this name or anything below it."""
        return place in self.tensors or place in self._children


def head_size(channels: int) -> int:
    """Returns the number of heads of 64 channels, or of the nearest possible size."""
    return next(heads for heads in range(max(1, channels // _HEAD), 0, -1) if channels % heads == 0)


def eight_heads(channels: int) -> int:
    """Returns eight, or the largest divisor of eight that divides the channels."""
    return math.gcd(8, channels)


def heads_of_32(channels: int) -> int:
    """Returns the number of heads of 32 channels."""
    return max(1, channels // 32)


def one_head(channels: int) -> int:
    """Returns one: a single head of any size."""
    return 1


def unet(
    tensors: Mapping[str, Tensor], where: str, heads: Callable[[int], int], only_cross: Sequence[bool] = ()
) -> Config:
    """Returns the config of a UNet2DConditionModel or UNet2DModel with these weights.

    heads: number of attention heads for a number of channels, which no shape tells. only_cross: per level, used where
    image and prompt have the same width, so that no shape tells it. Raises InputError for what is no such UNet.
    """
    s = Shapes(tensors, where)
    levels = range(s.count("down_blocks"))
    if not levels or s.count("up_blocks") != len(levels):
        raise InputError(f"{where}: {len(levels)} levels going down and {s.count('up_blocks')} going up, not a UNet")
    channels = [s.dim(f"down_blocks.{i}.resnets.0.conv1.weight", 0) for i in levels]
    if any(name.endswith(".qkv.weight") for name in tensors):
        return _plain_unet(s, channels, heads)
    down, up = ([_depths(s, f"{side}_blocks.{i}") for i in levels] for side in ("down", "up"))
    places = [f"down_blocks.{i}" if down[i] else f"up_blocks.{len(levels) - 1 - i}" for i in levels]
    attends = [bool(down[i] or up[len(levels) - 1 - i]) for i in levels]
    # A level without attention has no context: that of the others stands for it.
    contexts = [_width(s, place, "attn2") if has else 0 for place, has in zip(places, attends, strict=True)]
    middle = _depths(s, "mid_block")
    context = _width(s, "mid_block", "attn2") if middle else max(contexts)
    contexts = [c or context or max(contexts) for c in contexts]
    widths = [_width(s, place, "attn1") if has else 0 for place, has in zip(places, attends, strict=True)]
    config: Config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": s.dim("conv_in.weight", 1),
        "out_channels": s.dim("conv_out.weight", 0),
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in down],
        "up_block_types": ["CrossAttnUpBlock2D" if u else "UpBlock2D" for u in up],
        "layers_per_block": _shortened([s.count(f"down_blocks.{i}.resnets") for i in levels]),
        "attention_head_dim": _shortened([heads(c) for c in channels]),  # the number of heads, in this class
        "cross_attention_dim": _shortened(contexts),
        "norm_num_groups": math.gcd(_GROUPS, *channels),
        "use_linear_projection": any(
            name.endswith(".proj_in.weight") and len(t.shape) == 2 for name, t in tensors.items()
        ),
    }
    config |= _transformers(down, middle, up)
    if not middle:
        config["mid_block_type"] = "UNetMidBlock2D" if s.has("mid_block") else None
    by_kind = only_cross if len(only_cross) == len(levels) else [False] * len(levels)
    crossing = [
        by_kind[i] if contexts[i] == channels[i] else widths[i] == contexts[i] if widths[i] else False for i in levels
    ]
    if any(crossing):
        config["only_cross_attention"] = crossing
    embedding = s.dim("time_embedding.linear_1.weight", 0)
    if embedding != 4 * channels[0]:
        config["time_embedding_dim"] = embedding
    if s.has("time_embedding.cond_proj"):
        config["time_cond_proj_dim"] = s.dim("time_embedding.cond_proj.weight", 1)
    if s.has("class_embedding"):
        config["num_class_embeds"] = s.dim("class_embedding.weight", 0)
    if s.has("add_embedding"):
        config["addition_embed_type"] = "text_time"
        config["projection_class_embeddings_input_dim"] = s.dim("add_embedding.linear_1.weight", 1)
    return config


def _plain_unet(s: Shapes, channels: list[int], heads: Callable[[int], int]) -> Config:
    """The config of a UNet2DModel, which attends to the image alone."""
    levels = range(len(channels))

    def types(side: str, place: str) -> list[str]:
        """Block types of a side; sets how the blocks with attention resample."""
        blocks = [f"{side.lower()}_blocks.{i}" for i in levels]
        resnet = any(s.has(f"{block}.{place}.0.conv1") for block in blocks)
        plain = f"Resnet{place.removesuffix('rs').capitalize()}Block2D" if resnet else f"{side}Block2D"
        config[f"{place.removesuffix('rs')}_type"] = "resnet" if resnet else "conv"
        return [f"Attn{side}Block2D" if s.has(f"{block}.attentions") else plain for block in blocks]

    groups = math.gcd(_GROUPS, *channels)
    layers = {s.count(f"down_blocks.{i}.resnets") for i in levels}
    if len(layers) > 1:
        raise InputError(f"{s.where}: levels of {' and '.join(map(str, sorted(layers)))} resnets, not one number")
    config: Config = {
        "_class_name": "UNet2DModel",
        "in_channels": s.dim("conv_in.weight", 1),
        "out_channels": s.dim("conv_out.weight", 0),
        "block_out_channels": channels,
        "layers_per_block": layers.pop(),
        "attention_head_dim": _shortened([c // heads(c) for c in channels]),
        "norm_num_groups": groups,
        "add_attention": s.has("mid_block.attentions"),
    }
    config |= {"down_block_types": types("Down", "downsamplers"), "up_block_types": types("Up", "upsamplers")}
    if s.dim("down_blocks.0.resnets.0.time_emb_proj.weight", 0) == 2 * channels[0]:
        config |= {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": groups}
    if s.has("class_embedding"):
        config["num_class_embeds"] = s.dim("class_embedding.weight", 0)
    return config


def control(tensors: Mapping[str, Tensor], where: str) -> Config:
    """Returns the config of a ControlNetModel with these weights; InputError for what is no ControlNet.

    No shape tells the order of the image's colours and whether residuals are pooled, nor the number of heads and the
    width of SDXL's embedded sizes: those are the usual ones here, and the UNet's once there is one.
    """
    s = Shapes(tensors, where)
    levels = range(s.count("down_blocks"))
    if not levels or not s.has("controlnet_cond_embedding"):
        raise InputError(f"{where}: {len(levels)} levels going down, not a whole ControlNet")
    channels = [s.dim(f"down_blocks.{i}.resnets.0.conv1.weight", 0) for i in levels]
    down, middle = [_depths(s, f"down_blocks.{i}") for i in levels], _depths(s, "mid_block")
    linear = any(name.endswith(".proj_in.weight") and len(t.shape) == 2 for name, t in tensors.items())
    heads = head_size if linear else eight_heads  # Stable Diffusion 1 alone has convolutions there
    blocks = [f"down_blocks.{i}" for i in levels if any(down[i])] + (["mid_block"] if any(middle) else [])
    embedded = "controlnet_cond_embedding"
    halvings = range(1, s.count(f"{embedded}.blocks"), 2)
    config: Config = {
        "_class_name": "ControlNetModel",
        "_inferred": True,
        "in_channels": s.dim("conv_in.weight", 1),
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in down],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "layers_per_block": _shortened([s.count(f"down_blocks.{i}.resnets") for i in levels]),
        "attention_head_dim": _shortened([heads(c) for c in channels]),
        "cross_attention_dim": _width(s, blocks[0], "attn2") if blocks else 0,
        "transformer_layers_per_block": _shortened(_down_depths(down, middle)),
        "norm_num_groups": math.gcd(_GROUPS, *channels),
        "use_linear_projection": linear,
        "conditioning_channels": s.dim(f"{embedded}.conv_in.weight", 1),
        "conditioning_embedding_out_channels": [
            s.dim(f"{embedded}.conv_in.weight", 0),
            *[s.dim(f"{embedded}.blocks.{i}.weight", 0) for i in halvings],
        ],
    }
    if s.has("add_embedding"):
        inputs = s.dim("add_embedding.linear_1.weight", 1)
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _SIZE_WIDTH,
            "projection_class_embeddings_input_dim": inputs,
        }
    if s.has("task_embedding"):
        modes = s.dim("task_embedding", 0)
        config |= {
            "_class_name": "ControlNetUnionModel",
            "addition_time_embed_dim": s.dim("control_add_embedding.linear_1.weight", 1) // modes,
            "num_control_type": modes,
            "num_trans_channel": s.dim("task_embedding", 1),
            "num_trans_layer": s.count("transformer_layes"),
            "num_proj_channel": s.dim("spatial_ch_projs.weight", 0),
        }
    return config


def vae(tensors: Mapping[str, Tensor], where: str) -> Config:
    """Returns the config of an autoencoder with these weights, but for the scale of latents, which no shape tells."""
    s = Shapes(tensors, where)
    levels = range(s.count("encoder.down_blocks"))
    if not levels or not s.has("decoder"):
        raise InputError(f"{where}: not a whole VAE, with encoder and decoder")
    channels = [s.dim(f"encoder.down_blocks.{i}.resnets.0.conv1.weight", 0) for i in levels]
    config: Config = {
        "_class_name": "AutoencoderKL",
        "in_channels": s.dim("encoder.conv_in.weight", 1),
        "out_channels": s.dim("decoder.conv_out.weight", 0),
        "latent_channels": s.dim("decoder.conv_in.weight", 1),
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "layers_per_block": s.count("encoder.down_blocks.0.resnets"),
        "norm_num_groups": math.gcd(_GROUPS, *channels),
    }
    if not s.has("decoder.mid_block.attentions"):
        config["mid_block_add_attention"] = False
    for name in ("quant_conv", "post_quant_conv"):
        if not s.has(name):
            config[f"use_{name}"] = False
    if s.has("quantize"):
        config["_class_name"] = "VQModel"
        config["num_vq_embeddings"], config["vq_embed_dim"] = (s.dim("quantize.embedding.weight", i) for i in (0, 1))
    return config


def class_embedder(tensors: Mapping[str, Tensor], where: str) -> Config:
    """Returns the config of a class embedder with these weights."""
    s = Shapes(tensors, where)
    rows, width = (s.dim("embedding.weight", i) for i in (0, 1))
    return {"_class_name": "ClassEmbedder", "n_classes": rows, "embed_dim": width}


def text(tensors: Mapping[str, Tensor], where: str, activation: str, projected: bool) -> Config:
    """Returns the config of a CLIPTextModel or, if `projected`, of a CLIPTextModelWithProjection with these weights."""
    s = Shapes(tensors, where)
    width = s.dim("embeddings.token_embedding.weight", 1)
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": s.dim("embeddings.token_embedding.weight", 0),
        "max_position_embeddings": s.dim("embeddings.position_embedding.weight", 0),
        "hidden_size": width,
        "intermediate_size": s.dim("encoder.layers.0.mlp.fc1.weight", 0),
        "num_hidden_layers": s.count("encoder.layers"),
        "num_attention_heads": head_size(width),
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": s.dim("text_projection.weight", 0) if projected else width,
        "bos_token_id": 0,
        "eos_token_id": 2,  # as in all of these configs; the end token is then taken to be the largest id
        "pad_token_id": 1,
    }


def _depths(s: Shapes, block: str) -> list[int]:
    """How many transformer blocks each attention of a block has."""
    return [s.count(f"{block}.attentions.{i}.transformer_blocks") for i in range(s.count(f"{block}.attentions"))]


def _width(s: Shapes, block: str, attention: str) -> int:
    return s.dim(f"{block}.attentions.0.transformer_blocks.0.{attention}.to_k.weight", 1)


def _transformers(down: list[list[int]], middle: list[int], up: list[list[int]]) -> Config:
    """The config's fields of depths: per level, going down; going up only where they are not the same."""
    per_level = _down_depths(down, middle)
    upwards = [_shortened(depths) if depths else 1 for depths in up]
    if all(a == b or not depths for a, b, depths in zip(upwards, reversed(per_level), up, strict=True)):
        return {} if per_level == [1] * len(per_level) else {"transformer_layers_per_block": _shortened(per_level)}
    return {"transformer_layers_per_block": per_level, "reverse_transformer_layers_per_block": upwards}


def _down_depths(down: list[list[int]], middle: list[int]) -> list[Any]:
    """The depths of each level going down; that of the middle is the last level's, where that level has none."""
    per_level = [_shortened(depths) if depths else 1 for depths in down]
    if middle and not down[-1]:
        per_level[-1] = middle[0]
    return per_level


def _shortened(values: list[Any]) -> Any:
    """One value in place of a list of equal values."""
    return values[0] if all(value == values[0] for value in values) else values
