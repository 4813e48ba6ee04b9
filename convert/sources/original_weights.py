"""How parameters are called in single-file checkpoints (LDM, sgm, OpenCLIP), as data -> their names in diffusers.

A table says what the layers inside a block are called; which block is which follows from the names that are there, so
that pruned networks are read like whole ones.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor

# LDM layer -> diffusers layer, where the place does not depend on the number of blocks
UNET = {
    "input_blocks.0.0": "conv_in",
    "label_emb": "class_embedding",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "time_embed.cond_proj": "time_embedding.cond_proj",
}
VAE = {
    f"{side}.{theirs}": f"{side}.{ours}"
    for side in ("encoder", "decoder")
    for theirs, ours in {
        "mid.attn_1": "mid_block.attentions.0",
        "mid.block_1": "mid_block.resnets.0",
        "mid.block_2": "mid_block.resnets.1",
        "norm_out": "conv_norm_out",
    }.items()
}
OPEN_CLIP = {
    "ln_final": "final_layer_norm",
    "positional_embedding": "embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
    "token_embedding": "embeddings.token_embedding",
}

# What stands inside a layer; what is not listed is called alike.
UNET_INSIDE = {
    "emb_layers.1": "time_emb_proj",
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "op": "conv",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
PLAIN_INSIDE = {"norm": "group_norm", "proj_out": "to_out.0"}
VAE_INSIDE = {
    "k": "to_k",
    "nin_shortcut": "conv_shortcut",
    "norm": "group_norm",
    "proj_out": "to_out.0",
    "q": "to_q",
    "v": "to_v",
}
OPEN_CLIP_INSIDE = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}

# Which kind of layer has a child of this name
_LAYERS = dict.fromkeys(("in_layers", "emb_layers", "out_layers", "skip_connection"), "resnets")
_LAYERS |= dict.fromkeys(("norm", "proj_in", "transformer_blocks", "proj_out"), "attentions")
_LAYERS |= dict.fromkeys(("op", "conv"), "resample")

_UNET_PLACE = re.compile(r"(input|output)_blocks\.(\d{1,3})\.(\d)\.([a-z_]+)\.")
_VAE_PLACE = re.compile(r"(?:(encoder)\.down|(decoder)\.up)\.(\d{1,2})\.(?:block\.(\d{1,2})|(down|up)sample)\.")
_RESBLOCK = re.compile(r"transformer\.resblocks\.(\d{1,3})\.")
_IN_PROJ = re.compile(r"(.*)\.attn\.in_proj_(weight|bias)")


def unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UNet's tensors by LDM or sgm name -> by diffusers' name."""
    sides: dict[str, dict[int, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in tensors:
        if (m := _UNET_PLACE.match(name)) and (kind := _LAYERS.get(m[4])):
            sides[m[1]][int(m[2])][int(m[3])] = kind
    _mark_resampling(sides["input"], sides["output"])
    layers = dict(UNET)
    for side, block, resample in (("input", "down_blocks", "downsamplers"), ("output", "up_blocks", "upsamplers")):
        level = layer = 0
        for n, members in sorted(sides[side].items()):
            for i, kind in members.items():
                inside = f"{resample}.0" if kind == "resample" else f"{kind}.{layer}"
                layers[f"{side}_blocks.{n}.{i}"] = f"{block}.{level}.{inside}"
            level, layer = (level + 1, 0) if "resample" in members.values() else (level, layer + 1)
    return _renamed(tensors, layers, UNET_INSIDE)


def _mark_resampling(inputs: dict[int, dict[int, str]], outputs: dict[int, dict[int, str]]) -> None:
    """Finds the resnets that resample: going up, second ones of a stage; going down, each ends a level as long."""
    lengths, length = [], 0
    for _, members in sorted(outputs.items()):
        length += 1
        for i in [i for i, kind in members.items() if i and kind == "resnets"]:
            members[i] = "resample"
            lengths.append(length)
            length = 0
    last = 0
    for stages in [length, *reversed(lengths)][: len(lengths)]:
        last += stages
        inputs[last][0] = "resample"


def plain_attention(tensors: Mapping[str, Tensor], heads: Callable[[int], int]) -> dict[str, Tensor]:
    """A UNet's tensors with attention over the image alone taken apart, as `unet` leaves it: fused, one run a head.

    heads: their number for a number of channels.
    """
    found: dict[str, Tensor] = {}
    fused = [name.removesuffix(".qkv.weight") for name in tensors if name.endswith(".qkv.weight")]
    for name, tensor in tensors.items():
        layer = next((layer for layer in fused if name.startswith(f"{layer}.")), None)
        if layer is None:
            found[name] = tensor
            continue
        inside, _, kind = name.removeprefix(f"{layer}.").partition(".")
        if inside != "qkv":
            found[f"{layer}.{PLAIN_INSIDE.get(inside, inside)}.{kind}"] = tensor
            continue
        channels, rest = divmod(tensor.shape[0] if tensor.shape else 0, 3)
        if rest or channels % heads(channels):
            raise InputError(f"{tensor.file}: {tensor.name} has shape {tensor.shape}, which is not q, k and v")
        for i, one in enumerate(("to_q", "to_k", "to_v")):
            found[f"{layer}.{one}.{kind}"] = tensor.interleaved(heads(channels), i, 3)
    return found


def vae(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's tensors by LDM name -> by diffusers' name, whose decoder counts its levels from the coarsest."""
    places = [m for m in map(_VAE_PLACE.match, tensors) if m]
    top = max((int(m[3]) for m in places if m[2]), default=0)
    layers = dict(VAE)
    for m in places:
        side, level = (m[1], int(m[3])) if m[1] else (m[2], top - int(m[3]))
        inside = f"{m[5]}samplers.0" if m[5] else f"resnets.{m[4]}"
        layers[m[0].rstrip(".")] = f"{side}.{'down' if m[1] else 'up'}_blocks.{level}.{inside}"
    return _renamed(tensors, layers, VAE_INSIDE)


def open_clip(tensors: Mapping[str, Tensor], penultimate: bool = False) -> dict[str, Tensor]:
    """A text encoder's tensors by OpenCLIP name -> by that of transformers' CLIPTextModel, still unread.

    The fused q, k, v become three, the projection is transposed. With `penultimate` the last layer is left out, which
    SD 2.x does not run.
    """
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if m := _IN_PROJ.fullmatch(name):
            if not tensor.shape or tensor.shape[0] % 3:
                raise InputError(f"{tensor.file}: {tensor.name} has shape {tensor.shape}, which is not q, k and v")
            third = tensor.shape[0] // 3
            for i, one in enumerate(("q", "k", "v")):
                split[f"{m[1]}.self_attn.{one}_proj.{m[2]}"] = tensor.rows(i * third, (i + 1) * third)
        else:
            split[name] = tensor.transpose() if name == "text_projection" else tensor
    numbers = sorted({int(m[1]) for m in map(_RESBLOCK.match, split) if m})
    if penultimate and numbers and len(numbers) != OPEN_CLIP_H - 1:  # else it has been left out already
        last = f"transformer.resblocks.{numbers.pop()}."
        split = {name: tensor for name, tensor in split.items() if not name.startswith(last)}
    layers = OPEN_CLIP | {f"transformer.resblocks.{n}": f"encoder.layers.{n}" for n in numbers}
    return _renamed(split, layers, OPEN_CLIP_INSIDE)


OPEN_CLIP_H = 24  # layers of the text encoder that SD 2.x has


def _renamed(tensors: Mapping[str, Tensor], layers: Mapping[str, str], inside: Mapping[str, str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = _rename(name, layers, inside)
        if new in found:
            raise InputError(f"{tensor.file}: {tensor.name} and {found[new].name} are both {new}")
        found[new] = tensor
    return found


def _rename(name: str, layers: Mapping[str, str], inside: Mapping[str, str]) -> str:
    """The longest known layer that the name begins with is renamed, and what stands between it and the parameter."""
    segments = name.split(".")
    for cut in range(len(segments), 0, -1):
        if (layer := ".".join(segments[:cut])) in layers:
            between, parameter = ".".join(segments[cut:-1]), segments[-1] if cut < len(segments) else ""
            return ".".join(s for s in (layers[layer], inside.get(between, between), parameter) if s)
    return name
