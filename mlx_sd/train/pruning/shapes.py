"""Smaller UNets of BK-SDM's shapes (Kim et al. 2023, sec. 3.1): whole blocks are left out, and widths stay.

    base    one residual block and attention on every level down, the first; two on the way up, the first and the last
    small   the same without a middle
    tiny    the same without the coarsest level

The first pair of a level sees a new resolution or width, and the last one up joins the skip of the level before, so
the others are what a level can best do without. The blocks that stay begin with their weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from ...core.errors import InputError
from ...core.suggestions import unknown
from ...networks.unet import UNet
from ...networks.unet_config import UNetConfig
from ..learning.kind_settings import SHAPES
from .plan import check
from .slicing import Weights, weights_of


def shape_config(config: Mapping[str, Any], shape: str) -> dict[str, Any]:
    """Returns the config of a UNet of a smaller shape; config: the whole UNet's, as Hugging Face writes it.

    InputError where the UNet is of that shape already, or has another class.
    """
    check(config)
    if shape not in SHAPES:
        raise unknown("shape", shape, SHAPES)
    levels = len(config["block_out_channels"])
    layers = _listed(config.get("layers_per_block", 2), levels)
    smaller = {**config, "layers_per_block": 1}
    for field, ends in (("transformer_layers_per_block", 1), ("reverse_transformer_layers_per_block", 2)):
        if isinstance(depths := config.get(field), (list, tuple)):
            smaller[field] = [_shortened(depth, ends) for depth in depths]
    middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if shape != "base":
        smaller["mid_block_type"] = None
    if shape == "tiny":
        if levels == 1:
            raise InputError("a UNet of one level has none to leave out; take another --shape")
        for field in ("block_out_channels", "down_block_types"):
            smaller[field] = list(config[field])[:-1]
        smaller["up_block_types"] = list(config["up_block_types"])[1:]
        for field, value in smaller.items():
            if field in _BY_LEVEL and isinstance(value, (list, tuple)):
                smaller[field] = list(value)[1:] if field.startswith("reverse") else list(value)[:-1]
    if max(layers) == 1 and shape != "tiny" and (shape == "base" or middle is None):
        raise InputError(f"this UNet is of the shape {shape} already; take --remove, or another --shape")
    return smaller


def shape_weights(unet: UNet, config: Mapping[str, Any], shape: str) -> Weights:
    """Returns the weights with which a UNet of `shape_config(config, shape)` begins: those of the blocks that stay.

    InputError where a block that stays joins features of another width than before.
    """
    smaller = UNet(UNetConfig.from_hf(shape_config(config, shape)))
    before, paths = weights_of(unet), {name: path for path, name in unet.names.items()}
    layers = [block.resnets for block in unet.config.up]
    shift = len(unet.config.up) - len(smaller.config.up)
    weights: Weights = {}
    for path, name in smaller.names.items():
        source = paths.get(_source(name, layers, shift))
        if source is not None:
            start = f"{source}."
            inside = {name.removeprefix(start): a for name, a in before.items() if name.startswith(start)}
            weights |= {f"{path}.{name}": array for name, array in inside.items()}
    for parameter, array in weights_of(smaller).items():
        if parameter not in weights or weights[parameter].shape != array.shape:
            raise InputError(
                f"the shape {shape} cannot keep this UNet's weights: its two coarsest levels have other widths; take "
                "--shape small, or --remove"
            )
    mx.eval(weights)
    return weights


_BY_LEVEL = (
    "attention_head_dim",
    "cross_attention_dim",
    "only_cross_attention",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
)


def _source(name: str, layers: Sequence[int], shift: int) -> str:
    """The name of a layer of the whole UNet, by its diffusers name in the smaller one.

    layers: residual blocks of each level up of the whole UNet; shift: how many coarse levels it has more.
    """
    if not name.startswith("up_blocks."):
        return name
    path, block, kind, number = name.split(".")
    level = int(block) + shift
    if kind != "upsamplers" and number == "1":
        number = str(layers[level] - 1)
    return f"{path}.{level}.{kind}.{number}"


def _listed(value: Any, length: int) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * length


def _shortened(depth: Any, ends: int) -> Any:
    """The depths of transformers of a level's first blocks, or of its first and last."""
    if not isinstance(depth, (list, tuple)):
        return depth
    return [depth[0], depth[-1]][:ends]
