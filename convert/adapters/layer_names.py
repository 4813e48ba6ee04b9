"""Which of a model's layers an adapter's name means, in every spelling there is.

Names with their dots turned into underscores (kohya's) cannot be taken apart again; so every layer of the model is
listed under each of its spellings, and a name is looked up.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import mlx.nn as nn

from mlx_sd.checkpoint.model_folder import shapes

from ..files.diffusers_names import diffusers_name
from ..files.original_names import open_clip_layer, unet_layer


class Target(NamedTuple):
    """A layer of our network `part`, or one of `pieces` where an adapter has several layers in one projection."""

    part: str
    layer: str
    piece: int = 0
    pieces: int = 1


# What diffusers once called the projections of a text encoder, too.
_OLD_TEXT = {"k_proj": "to_k", "out_proj": "to_out.0", "q_proj": "to_q", "v_proj": "to_v"}
# Our attention -> the projection in which several of our layers may lie, one under the other.
_FUSED = {
    "attn1": ("to_qkv", ("q", "k", "v")),
    "attn2": ("to_kv", ("k", "v")),
    "attention": ("in_proj", ("q", "k", "v")),
}


def spellings(part: str, network: nn.Module) -> dict[str, list[Target]]:
    """Returns every name that adapters have for the layers of network `part`, with the layers or pieces it means."""
    targets: dict[str, list[Target]] = {}
    for parameter in shapes(network):
        layer, _, parameter_kind = parameter.rpartition(".")
        if parameter_kind != "weight":
            continue
        for name, target in _names(part, network.names, layer):
            for spelling in {name, name.replace(".", "_")}:
                targets.setdefault(spelling, []).append(target)
    return targets


def _names(part: str, layers: Mapping[str, str], layer: str) -> Iterator[tuple[str, Target]]:
    target = Target(part, layer)
    diffusers = diffusers_name(part, layers, layer)
    yield diffusers, target
    if part == "unet":
        original = unet_layer(layer, diffusers)
    else:
        yield f"text_model.{diffusers}", target
        old = ".".join(_OLD_TEXT.get(segment, segment) for segment in diffusers.split("."))
        if old != diffusers:
            yield f"text_model.{old}", target
        original = open_clip_layer(diffusers)
    if original != diffusers:
        yield original, target
    *_, attention, last = ["", *layer.split(".")]
    fused, members = _FUSED.get(attention, ("", ()))
    if last in members:
        piece = target._replace(piece=members.index(last), pieces=len(members))
        yield f"{diffusers.rpartition('.')[0]}.{fused}", piece
        yield f"{original.rpartition('.')[0]}.{fused}", piece
