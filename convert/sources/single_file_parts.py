"""The networks in a single file: its VAE, its text encoders and its class embedder; also such networks on their own."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.checkpoint.tiny_vaes import REPOSITORIES
from mlx_sd.core import file_formats
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor, tensors

from ..files import file_kinds
from ..files.diffusers_names import current_name
from ..files.refusals import check_dtypes, is_pickle, pickle_error
from . import configs_from_shapes, diffusers_folder, original_weights, single_network, tiny_autoencoder
from .checkpoint import Component
from .single_file_kinds import IGNORED, TEXT_IGNORED, Text

Tensors = Mapping[str, Tensor]

_VAES = ("first_stage_model.", "vae.", "")
_VAE_MARK = "decoder.conv_in.weight"  # in the original's names and in diffusers'
_BELOW = ("", "model.", "transformer.")  # levels of names between a text encoder's prefix and its layers
_TEXTS = ("", "text_encoders.clip_l.", "text_encoders.clip_g.", "cond_stage_model.", "conditioner.embedders.0.")
_OPEN_CLIP, _HUGGING_FACE = "transformer.resblocks.0.ln_1.weight", "encoder.layers.0.layer_norm1.weight"


def open_tensors(file: Path) -> dict[str, Tensor]:
    """Opens a safetensors file; InputError for pickles, GGUF files and whatever else is no safetensors file."""
    try:
        sentence = file_formats.other_format(file)
        with file.open("rb") as f:
            header = file_formats.is_header(f.read(9))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    if sentence:
        raise InputError(f"{file} {sentence}")
    if is_pickle(file.name):
        raise pickle_error(file)
    if file.suffix != ".safetensors" and not header:
        raise InputError(
            f"{file} is a file; give a diffusers folder (with model_index.json), a converted one (with model.json), "
            "or a .safetensors file"
        )
    return {tensor.name: tensor for tensor in tensors(file)}


def find_prefix(stored: Tensors, prefixes: tuple[str, ...], mark: str) -> str | None:
    """Returns the first of the prefixes under which there is a tensor called `mark`."""
    return next((prefix for prefix in prefixes if prefix + mark in stored), None)


def under(stored: Tensors, prefix: str) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with a prefix, by what follows it."""
    return {name[len(prefix) :]: tensor for name, tensor in stored.items() if name.startswith(prefix)}


def numbers(tensor: Tensor) -> list[float]:
    """Reads a tensor of at most 64 numbers."""
    check_dtypes([tensor])
    if not 0 < math.prod(tensor.shape) <= 64:
        raise InputError(f"{tensor.file}: {tensor.name} has shape {tensor.shape}, not a few numbers")
    return [float(x) for x in np.array(tensor.read().astype(mx.float32)).ravel()]


def component(file: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> Component:
    """Returns a network of `file` after a check that all its tensors can be read."""
    check_dtypes(weights.values())
    return Component(config, weights, (file,))


def vae(file: Path, stored: Tensors, fields: Mapping[str, Any]) -> Component:
    """Opens the VAE of a single file.

    fields: of its config, those that no shape tells, the scale of its latents first of all.
    """
    prefix = find_prefix(stored, _VAES[:1], _VAE_MARK)
    if prefix is None:
        raise InputError(f"{file} has no VAE; give one by --vae")
    return _vae(file, under(stored, prefix), fields)


def standalone_vae(path: Path, fields: Mapping[str, Any]) -> Component:
    """Opens a VAE on its own: a file of LDM or diffusers names, a folder that has it, a hub id, or a tiny one's name.

    fields: as for `vae`; a tiny autoencoder takes none.
    """
    path = single_network.locate(str(path), REPOSITORIES)
    if path.is_dir():
        return _from_folder(path, "vae")
    stored = open_tensors(path)
    if tiny_autoencoder.is_tiny(stored):
        return tiny_autoencoder.component(path, stored, open_tensors)
    prefix = find_prefix(stored, _VAES, _VAE_MARK)
    if prefix is None:
        raise InputError(f"{path} is given as a VAE, but {_kind(stored)}")
    return _vae(path, under(stored, prefix), fields)


def text_encoder(file: Path, stored: Tensors, part: str, text: Text) -> Component:
    """Opens a text encoder of a single file; `text` says where it may be and what its shapes do not tell."""
    if weights := _text_weights(stored, text.prefixes, text):
        return _text_encoder(file, weights, text)
    raise InputError(f"{file} has no text encoder under {text.prefixes[0]}; give one by --{part.replace('_', '-')}")


def standalone_text_encoder(path: Path, part: str, text: Text) -> Component:
    """Opens a text encoder on its own: a file of transformers' or OpenCLIP's names, or a folder that has it."""
    if path.is_dir():
        return _from_folder(path, part)
    stored = open_tensors(path)
    if weights := _text_weights(stored, _TEXTS, text):
        return _text_encoder(path, weights, text)
    raise InputError(f"{path} is given as a text encoder, but {_kind(stored)}")


def class_embedder(file: Path, stored: Tensors) -> Component:
    """Opens the class embedder of a single file."""
    weights = under(stored, "cond_stage_model.")
    return component(file, configs_from_shapes.class_embedder(weights, str(file)), weights)


def _kind(stored: Tensors) -> str:
    foreign = file_kinds.foreign(stored)
    return foreign.sentence if foreign else "has none of its tensors"


def _vae(file: Path, inside: Tensors, fields: Mapping[str, Any]) -> Component:
    inside = {name: tensor for name, tensor in inside.items() if not IGNORED.fullmatch(name)}
    if "decoder.mid.block_1.conv1.weight" in inside:
        weights = original_weights.vae(inside)
    else:
        weights = {current: tensor for name, tensor in inside.items() if (current := current_name(name))}
    return component(file, {**configs_from_shapes.vae(weights, str(file)), **fields}, weights)


def _text_weights(stored: Tensors, prefixes: tuple[str, ...], text: Text) -> dict[str, Tensor]:
    """The tensors of the first text encoder under the prefixes, by transformers' current names; empty without one."""
    for prefix in (f"{prefix}{below}" for prefix in prefixes for below in _BELOW):
        inside = under(stored, prefix)
        if _OPEN_CLIP in inside:
            weights = original_weights.open_clip(inside, text.penultimate)
        else:
            weights = {name.removeprefix("text_model."): tensor for name, tensor in inside.items()}
            if _HUGGING_FACE not in weights:
                continue
        unused = () if text.projected else ("text_projection.weight",)
        return {name: t for name, t in weights.items() if name not in unused and not TEXT_IGNORED.fullmatch(name)}
    return {}


def _text_encoder(file: Path, weights: dict[str, Tensor], text: Text) -> Component:
    return component(file, configs_from_shapes.text(weights, str(file), text.activation, text.projected), weights)


def _from_folder(folder: Path, part: str) -> Component:
    return diffusers_folder.component(folder if (folder / "config.json").is_file() else folder / part)
