"""The tensors of a single file (LDM, sgm, OpenCLIP) under the names that they have in a diffusers folder.

Which numbered block is which follows from the names in the file, so that pruned networks are read like whole ones.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor

from ..files import original_names
from ..files.original_names import renamed

_UNET_INSIDE = original_names.RESNET | original_names.DOWNSAMPLER

# Which kind of layer has a child of this name
_LAYERS = dict.fromkeys(("in_layers", "emb_layers", "out_layers", "skip_connection"), "resnets")
_LAYERS |= dict.fromkeys(("norm", "proj_in", "transformer_blocks", "proj_out"), "attentions")
_LAYERS |= dict.fromkeys(("op", "conv"), "resample")

_UNET_PLACE = re.compile(r"(input|output)_blocks\.(\d{1,3})\.(\d)\.([a-z_]+)\.")
_VAE_PLACE = re.compile(r"(?:(encoder)\.down|(decoder)\.up)\.(\d{1,2})\.(?:block\.(\d{1,2})|(down|up)sample)\.")
_RESBLOCK = re.compile(r"transformer\.resblocks\.(\d{1,3})\.")
_IN_PROJ = re.compile(r"(.*)\.attn\.in_proj_(weight|bias)")

_OPEN_CLIP_H = 24  # layers of the text encoder that SD 2.x has


def unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a UNet's tensors, given by LDM or sgm name, by diffusers' name."""
    sides: dict[str, dict[int, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in tensors:
        if (m := _UNET_PLACE.match(name)) and (kind := _LAYERS.get(m[4])):
            sides[m[1]][int(m[2])][int(m[3])] = kind
    _mark_resampling(sides["input"], sides["output"])
    layers = dict(original_names.UNET_LAYERS)
    for side, block, resample in (("input", "down_blocks", "downsamplers"), ("output", "up_blocks", "upsamplers")):
        level = layer = 0
        for n, members in sorted(sides[side].items()):
            for i, kind in members.items():
                inside = f"{resample}.0" if kind == "resample" else f"{kind}.{layer}"
                layers[f"{side}_blocks.{n}.{i}"] = f"{block}.{level}.{inside}"
            level, layer = (level + 1, 0) if "resample" in members.values() else (level, layer + 1)
    return _renamed(tensors, layers, _UNET_INSIDE)


def _mark_resampling(inputs: dict[int, dict[int, str]], outputs: dict[int, dict[int, str]]) -> None:
    """Marks the resnets that resample: going up, second ones of a stage; going down, each ends a level as long."""
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
    """Returns a UNet's tensors, as `unet` leaves them, with the fused attention over the image taken apart.

    The original stores q, k and v in one matrix, interleaved by heads. heads: their number for a number of channels.
    """
    split: dict[str, Tensor] = {}
    fused = [name.removesuffix(".qkv.weight") for name in tensors if name.endswith(".qkv.weight")]
    for name, tensor in tensors.items():
        layer = next((layer for layer in fused if name.startswith(f"{layer}.")), None)
        if layer is None:
            split[name] = tensor
            continue
        inside, _, parameter = name.removeprefix(f"{layer}.").partition(".")
        if inside != "qkv":
            split[f"{layer}.{original_names.PLAIN_ATTENTION.get(inside, inside)}.{parameter}"] = tensor
            continue
        channels, remainder = divmod(tensor.shape[0] if tensor.shape else 0, 3)
        if remainder or channels % heads(channels):
            raise _not_qkv(tensor)
        for i, projection in enumerate(("to_q", "to_k", "to_v")):
            split[f"{layer}.{projection}.{parameter}"] = tensor.interleaved(heads(channels), i, 3)
    return split


def vae(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns an autoencoder's tensors, given by LDM name, by diffusers' name.

    The decoder's levels are counted from the finest in LDM, from the coarsest in diffusers.
    """
    places = [m for m in map(_VAE_PLACE.match, tensors) if m]
    top = max((int(m[3]) for m in places if m[2]), default=0)
    layers = dict(original_names.VAE_LAYERS)
    for m in places:
        side, level = (m[1], int(m[3])) if m[1] else (m[2], top - int(m[3]))
        inside = f"{m[5]}samplers.0" if m[5] else f"resnets.{m[4]}"
        layers[m[0].rstrip(".")] = f"{side}.{'down' if m[1] else 'up'}_blocks.{level}.{inside}"
    return _renamed(tensors, layers, original_names.VAE_INSIDE)


def open_clip(tensors: Mapping[str, Tensor], penultimate: bool = False) -> dict[str, Tensor]:
    """Returns a text encoder's tensors, given by OpenCLIP name, by that of transformers' CLIPTextModel, still unread.

    The fused q, k and v become three tensors, the projection is transposed. With `penultimate` the last layer is left
    out, which SD 2.x does not run.
    """
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if m := _IN_PROJ.fullmatch(name):
            if not tensor.shape or tensor.shape[0] % 3:
                raise _not_qkv(tensor)
            third = tensor.shape[0] // 3
            for i, projection in enumerate(("q", "k", "v")):
                split[f"{m[1]}.attn.{projection}_proj.{m[2]}"] = tensor.rows(i * third, (i + 1) * third)
        else:
            split[name] = tensor.transpose() if name == "text_projection" else tensor
    numbers = sorted({int(m[1]) for m in map(_RESBLOCK.match, split) if m})
    original, diffusers = original_names.OPEN_CLIP_BLOCKS
    if penultimate and numbers and len(numbers) != _OPEN_CLIP_H - 1:  # else it has been left out already
        last = f"{original}.{numbers.pop()}."
        split = {name: tensor for name, tensor in split.items() if not name.startswith(last)}
    layers = original_names.OPEN_CLIP_LAYERS | {f"{original}.{n}": f"{diffusers}.{n}" for n in numbers}
    return _renamed(split, layers, original_names.OPEN_CLIP_INSIDE)


def _renamed(tensors: Mapping[str, Tensor], layers: Mapping[str, str], inside: Mapping[str, str]) -> dict[str, Tensor]:
    by_name: dict[str, Tensor] = {}
    for tensor_name, tensor in tensors.items():
        name = renamed(tensor_name, layers, inside)
        if name in by_name:
            raise InputError(f"{tensor.file}: {tensor.name} and {by_name[name].name} are both {name}")
        by_name[name] = tensor
    return by_name


def _not_qkv(tensor: Tensor) -> InputError:
    return InputError(f"{tensor.file}: {tensor.name} has shape {tensor.shape}, which is not q, k and v")
