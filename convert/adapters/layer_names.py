"""Which of a model's layers an adapter's name means, in every spelling there is, from the model itself.

Names with their dots turned into underscores (kohya's) cannot be taken apart again; so every layer is listed under
each of its spellings, and a name is looked up.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import mlx.nn as nn

from mlx_sd.checkpoint.model_folder import shapes

from ..files import diffusers_names


class Target(NamedTuple):
    """A layer, or the piece of it that lies in a projection which others have in one."""

    part: str
    layer: str  # ours
    piece: int = 0
    pieces: int = 1


# Our layers -> the original code's (CompVis, Stability), whose stages are counted as ours are.
_STAGES = {"down.stages": "input_blocks", "middle.layers": "middle_block", "up.stages": "output_blocks"}
_LAYERS = {
    "conv": "out.2",
    "down.stages.0.0": "input_blocks.0.0",
    "embedding.added.linear1": "label_emb.0.0",
    "embedding.added.linear2": "label_emb.0.2",
    "embedding.timestep.linear1": "time_embed.0",
    "embedding.timestep.linear2": "time_embed.2",
    "norm": "out.0",
}
_RESBLOCK = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "embed": "emb_layers.1",
    "norm1": "in_layers.0",
    "norm2": "out_layers.0",
    "skip": "skip_connection",
}
_OPENCLIP = {
    "attention": "attn",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
    "layers": "transformer.resblocks",
    "norm": "ln_final",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "out": "out_proj",
    "projection": "text_projection",
}
# What diffusers once called the projections of a text encoder, too.
_OLD_TEXT = {"k_proj": "to_k", "out_proj": "to_out.0", "q_proj": "to_q", "v_proj": "to_v"}
# Attention in our words -> a projection that holds several of ours, one under the other.
_FUSED = {
    "attn1": ("to_qkv", ("q", "k", "v")),
    "attn2": ("to_kv", ("k", "v")),
    "attention": ("in_proj", ("q", "k", "v")),
}


def spellings(part: str, network: nn.Module) -> dict[str, list[Target]]:
    """Every name that adapters have for the layers of network `part` -> the layers, or pieces of them, it means."""
    found: dict[str, list[Target]] = {}
    for parameter in shapes(network):
        layer, _, kind = parameter.rpartition(".")
        if kind != "weight":
            continue
        for name, target in _names(part, network.names, layer):
            for spelling in {name, name.replace(".", "_")}:
                found.setdefault(spelling, []).append(target)
    return found


def _names(part: str, layers: Mapping[str, str], layer: str) -> Iterator[tuple[str, Target]]:
    whole = Target(part, layer)
    diffusers = diffusers_names.diffusers_name(part, layers, layer)
    yield diffusers, whole
    if part == "unet":
        original = _original(layer)
    else:
        yield f"text_model.{diffusers}", whole
        old = _replaced(diffusers, _OLD_TEXT)
        if old != diffusers:
            yield f"text_model.{old}", whole
        original = _replaced(layer, _OPENCLIP)
    if original != diffusers:
        yield original, whole
    *_, attention, last = ["", *layer.split(".")]
    fused, members = _FUSED.get(attention, ("", ()))
    if last in members:
        piece = whole._replace(piece=members.index(last), pieces=len(members))
        yield f"{diffusers.rpartition('.')[0]}.{fused}", piece
        yield f"{original.rpartition('.')[0]}.{fused}", piece


def _original(layer: str) -> str:
    if layer in _LAYERS:
        return _LAYERS[layer]
    path, *rest = layer.split(".", maxsplit=2)
    stage = f"{path}.{rest[0]}" if rest else path
    if stage not in _STAGES:
        return layer
    numbers = 1 if path == "middle" else 2  # of the layer, in the middle; of the stage and the layer, on a path
    segments = rest[1].split(".")
    place, inside = [_STAGES[stage], *segments[:numbers]], ".".join(segments[numbers:])
    if inside == "conv":
        return ".".join([*place, "op" if path == "down" else "conv"])
    return ".".join([*place, _RESBLOCK.get(inside) or _replaced(inside, diffusers_names.UNET)])


def _replaced(name: str, segments: Mapping[str, str]) -> str:
    return ".".join(segments.get(s, s) for s in name.split("."))
