"""A ControlNet on its own, as a diffusers folder or a single file of any names -> a checkpoint with one network."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_sd.checkpoint.model_folder import CONTROL
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor, read_json

from ..files import file_kinds
from ..files.diffusers_names import current_name
from . import configs_from_shapes, diffusers_folder, original_weights
from .checkpoint import Checkpoint, Component, Difference, SourceOptions
from .single_file_parts import Tensors, component, find_prefix, open_tensors, under

_PREFIXES = ("control_model.", "")
_ORIGINAL, _DIFFUSERS = "input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"
_LOW_RANK = "lora_controlnet"  # a key of files whose weights are products of two: Control-LoRAs
_MARK = "difference"  # a key of files whose weights are differences from the UNet's
# How the tensors of a base checkpoint begin, which some files hold beside the ControlNet's
_BASE = re.compile(
    r"(model|model_ema|diffusion_model|first_stage_model|cond_stage_model|conditioner)\."
    r"|(sqrt_)?(one_minus_|log_one_minus_|recip_|recipm1_)?alphas_|betas$|posterior_|logvar$|lvlb_|log_one|scale_factor$"
)
_HINT = re.compile(r"input_hint_block\.(\d{1,2})\.")
_ZERO = re.compile(r"zero_convs\.(\d{1,2})\.0\.")
_MIDDLE = "middle_block_out.0"
_IN_PROJ = re.compile(r"(transformer_layes\.\d{1,2}\.attn)\.in_proj_(weight|bias)")
_POOLED = re.compile(r"shuffle(_fp16)?$")  # the end of the names of files whose residuals are pooled, as in ComfyUI


def is_control(path: Path) -> bool:
    """Returns whether a folder or file holds a ControlNet and no whole checkpoint; nothing is read but names."""
    if path.is_dir():
        if not (path / "config.json").is_file():
            return False
        return "ControlNet" in str(read_json(path / "config.json").get("_class_name"))
    kind = file_kinds.foreign(open_tensors(path))
    return kind is not None and kind.title == file_kinds.CONTROLNET


def read(path: Path, options: SourceOptions) -> Checkpoint:
    """Opens a ControlNet; InputError for one that is not whole, and for options that are of whole checkpoints."""
    for name in ("ema", "kind", "prediction", "vae", "text_encoder", "text_encoder_2", "tokenizer"):
        if getattr(options, name):
            raise InputError(f"--{name.replace('_', '-')} is of whole checkpoints; {path} is a ControlNet")
    network = diffusers_folder.component(path, options.variant) if path.is_dir() else _from_file(path)
    network = replace(network, tensors=_values_alone(network.tensors))
    index: dict[str, Any] = {"_class_name": network.config.get("_class_name", "")}
    differences = any(isinstance(tensor, Difference) for tensor in network.tensors.values())
    summary = "a ControlNet" + (" of differences from the weights of a UNet" if differences else "")
    return Checkpoint(path, index, {}, {CONTROL: network}, {}, summary=summary)


def _from_file(file: Path) -> Component:
    stored = open_tensors(file)
    if _LOW_RANK in stored:
        stored = _products(stored)
    where = f"{file} is a ControlNet, but not a whole one"
    if (prefix := find_prefix(stored, _PREFIXES, _ORIGINAL)) is not None:
        weights = _original(_own(stored, prefix))
    elif (prefix := find_prefix(stored, _PREFIXES, _DIFFUSERS)) is not None:
        weights = {}
        for name, tensor in _own(stored, prefix).items():
            if current := current_name(name):
                weights[current] = tensor
    else:
        raise InputError(f"{where}: neither {_ORIGINAL} nor {_DIFFUSERS}")
    config = configs_from_shapes.control(weights, where)
    if _POOLED.search(file.stem):
        config["global_pool_conditions"] = True
    if _MARK in stored or f"control_model.{_MARK}" in stored:
        weights = {name: Difference.of(tensor) for name, tensor in weights.items()}
    return component(file, config, weights)


def _values_alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a union, of each projection of queries, keys and values only the last part: it uses no other.

    See `mlx_sd.networks.union.ValueBlock`.
    """
    values: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _IN_PROJ.fullmatch(name):
            rows = tensor.shape[0] if tensor.shape else 0
            values[f"{match[1]}.v_proj.{match[2]}"] = tensor.rows(2 * rows // 3, rows)
        else:
            values[name] = tensor
    return values


def _products(stored: Tensors) -> dict[str, Tensor]:
    """The tensors of a Control-LoRA, with the product of each pair `up` and `down` as a weight; others are whole."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        layer, _, role = name.rpartition(".")
        if role == "up" and f"{layer}.down" in stored:
            tensors[f"{layer}.weight"] = Difference.product(tensor, stored[f"{layer}.down"], f"{layer}.weight")
        elif name != _LOW_RANK and not (role == "down" and f"{layer}.up" in stored):
            tensors[name] = tensor
    return tensors


def _own(stored: Tensors, prefix: str) -> dict[str, Tensor]:
    """The ControlNet's tensors by what follows their prefix, without those of a base checkpoint and without marks."""
    inside = under(stored, prefix)
    return {name: tensor for name, tensor in inside.items() if name != _MARK and (prefix or not _BASE.match(name))}


def _original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of the authors' code -> by diffusers' names."""
    numbers = sorted({int(match[1]) for match in map(_HINT.match, tensors) if match})
    layers = ["conv_in", *(f"blocks.{i}" for i in range(len(numbers) - 2)), "conv_out"]
    places = dict(zip(numbers, layers, strict=False))
    named = {}
    for name, tensor in tensors.items():
        if match := _HINT.match(name):
            name = f"controlnet_cond_embedding.{places[int(match[1])]}.{name[match.end() :]}"
        elif match := _ZERO.match(name):
            name = f"controlnet_down_blocks.{match[1]}.{name[match.end() :]}"
        elif name.startswith(f"{_MIDDLE}."):
            name = name.replace(_MIDDLE, "controlnet_mid_block")
        named[name] = tensor
    return original_weights.unet(named)
