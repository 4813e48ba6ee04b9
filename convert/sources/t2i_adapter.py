"""A T2I-Adapter, as a diffusers folder, a hub id, or a single file of diffusers' or the authors' names."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor, read_json
from mlx_sd.networks.t2i_adapter import CLASS, CONVOLVES, FULL, KERNEL, LIGHT, XL

from ..files import file_kinds
from . import diffusers_folder, single_network
from .checkpoint import Component
from .configs_from_shapes import Shapes
from .single_file_parts import Tensors, component, open_tensors

_XL_UNSHUFFLE = 16  # at least; of all released adapters for SD 1 and 2 it is 8
_FLAT = re.compile(r"body\.(\d+)\.(in_conv|block1|block2|down_opt\.op)\.(weight|bias)")
_NESTED = re.compile(r"body\.(\d+)\.body\.(\d+)\.(block[12])\.(weight|bias)")


def open_adapter(name: str) -> Component:
    """Opens a T2I-Adapter by its path or hub id; InputError for whatever else that is."""
    path = single_network.locate(name)
    if path.is_dir():
        if (path / "config.json").is_file() and read_json(path / "config.json").get("_class_name") != CLASS:
            raise InputError(f"{path} is no T2I-Adapter: its config is of the class {_class(path)}")
        return diffusers_folder.component(path)
    stored = {name.removeprefix("adapter."): tensor for name, tensor in open_tensors(path).items()}
    if not is_adapter(stored):
        kind = file_kinds.recognise(stored)
        raise InputError(f"{path} is no T2I-Adapter" + (f": it {kind.verb} {kind.title}" if kind else ""))
    weights = _by_diffusers_names(stored)
    return component(path, _config(weights, str(path)), weights)


def is_adapter(stored: Tensors) -> bool:
    """Returns whether the tensors of a file, without the prefix "adapter.", are those of a T2I-Adapter."""
    return any(re.fullmatch(r"body\.0\.(resnets\.0\.|body\.0\.)?block1\.weight", name) for name in stored)


def _class(folder: Path) -> str:
    return str(read_json(folder / "config.json").get("_class_name"))


def _by_diffusers_names(stored: Tensors) -> dict[str, Tensor]:
    """Returns tensors by diffusers' names; the authors count the residual blocks of all widths in one row."""
    flat = "body.0.block1.weight" in stored
    row = 1 + max(int(match[1]) for name in stored if (match := re.match(r"body\.(\d+)\.", name)))
    in_block = max(1, row // 4)
    weights = {}
    for name, tensor in stored.items():
        if match := _NESTED.fullmatch(name):
            name = f"body.{match[1]}.resnets.{match[2]}.{match[3]}.{match[4]}"
        elif flat and (match := _FLAT.fullmatch(name)):
            block, resnet = divmod(int(match[1]), in_block)
            inside = match[2] if match[2] == "in_conv" else f"resnets.{resnet}.{match[2]}"
            inside = "down_opt" if match[2] == "down_opt.op" else inside
            name = f"body.{block}.{inside}.{match[3]}"
        weights[f"adapter.{name}"] = tensor
    return weights


def _config(weights: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Returns the config of a T2IAdapter with these weights."""
    s = Shapes(weights, where)
    blocks = range(s.count("adapter.body"))
    light = s.has("adapter.body.0.out_conv")
    inputs = s.dim("adapter.body.0.in_conv.weight" if light else "adapter.conv_in.weight", 1)
    channels = next((c for c in (3, 1) if inputs % c == 0 and math.isqrt(inputs // c) ** 2 == inputs // c), None)
    if channels is None:
        raise InputError(f"{where}: {inputs} channels are no pixels of an image")
    unshuffle = math.isqrt(inputs // channels)
    last = "out_conv" if light else "resnets.0.block1"
    widths = [s.dim(f"adapter.body.{i}.{last}.weight", 0) for i in blocks]
    kind = LIGHT if light else XL if unshuffle >= _XL_UNSHUFFLE else FULL
    config: dict[str, Any] = {
        "_class_name": CLASS,
        "adapter_type": kind,
        "in_channels": channels,
        "downscale_factor": unshuffle,
        "channels": widths[:-1] if light else widths,
        "num_res_blocks": s.count("adapter.body.0.resnets"),
    }
    if not light:
        config[KERNEL] = s.dim("adapter.body.0.resnets.0.block2.weight", 3)
        config[CONVOLVES] = any(".down_opt." in name for name in weights)
    return config
