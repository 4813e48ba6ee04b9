"""A tiny autoencoder (TAESD) in safetensors files: of diffusers' names in one, or of its author's, a file a side."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor

from ..files.refusals import check_dtypes
from .checkpoint import Component
from .configs_from_shapes import Shapes

Tensors = Mapping[str, Tensor]

_SIDES = ("encoder", "decoder")
_LAYER = re.compile(r"(?:(?:taesd_)?(encoder|decoder)\.)?(layers\.)?(\d+)\.(conv\.[024]\.)?(weight|bias)")


def is_tiny(stored: Tensors) -> bool:
    """Returns whether the tensors of a file are those of a tiny autoencoder."""
    return any((match := _LAYER.fullmatch(name)) and match[4] for name in stored)


def component(file: Path, stored: Tensors, open_tensors: Callable[[Path], Tensors]) -> Component:
    """Opens the tiny autoencoder of a file; the other side of one of the author's files lies beside it.

    open_tensors: opens that. Raises InputError where one side is missing, and for tensors that are of no layer.
    """
    sides, files = _sides(file, stored), [file]
    for side, other in zip(_SIDES, reversed(_SIDES), strict=True):
        if not sides[side]:
            beside = file.with_name(file.name.replace(other, side))
            if beside == file or not beside.is_file():
                name = "" if beside == file else f", {beside.name},"
                raise InputError(f"{file} is the {other} of a tiny autoencoder alone; put its {side}{name} beside it")
            sides[side] = _sides(beside, open_tensors(beside))[side]
            files.append(beside)
    weights = {f"{side}.layers.{name}": tensor for side in _SIDES for name, tensor in sides[side].items()}
    check_dtypes(weights.values())
    return Component(_config(weights, str(file)), weights, tuple(files))


def _sides(file: Path, stored: Tensors) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors of each side by number and name inside, as diffusers counts layers."""
    sides: dict[str, dict[str, Tensor]] = {side: {} for side in _SIDES}
    for name, tensor in stored.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            raise InputError(f"{file}: {name} is of no layer of a tiny autoencoder")
        side = match[1] or _side_of(stored)
        # The author's decoder has the bound on its latents as layer 0.
        number = int(match[3]) - (side == "decoder" and not match[2])
        sides[side][f"{number}.{match[4] or ''}{match[5]}"] = tensor
    return sides


def _side_of(stored: Tensors) -> str:
    """Returns the side of a file that holds one: only the encoder has a layer 0, the decoder's has no weights."""
    return "encoder" if "0.weight" in stored else "decoder"


def _config(weights: Tensors, where: str) -> dict[str, Any]:
    """Returns the config of an AutoencoderTiny with these weights."""
    s = Shapes(weights, where)
    config: dict[str, Any] = {"_class_name": "AutoencoderTiny"}
    for side in _SIDES:
        numbers = sorted({int(name.split(".")[2]) for name in weights if name.startswith(f"{side}.")})
        blocks = [s.has(f"{side}.layers.{number}.conv") for number in numbers]
        stages = _runs(blocks)
        config[f"num_{side}_blocks"] = stages
        width = s.dim(f"{side}.layers.0.weight", 0)
        config[f"{side}_block_out_channels"] = [width] * len(stages)
        ends = f"{side}.layers.{numbers[0]}.weight", f"{side}.layers.{numbers[-1]}.weight"
        images, latents = (
            ("in_channels", "latent_channels") if side == "encoder" else ("latent_channels", "out_channels")
        )
        config |= {images: s.dim(ends[0], 1), latents: s.dim(ends[1], 0)}
    config["block_out_channels"] = config["encoder_block_out_channels"]
    return config


def _runs(blocks: list[bool]) -> list[int]:
    """Returns the lengths of the runs of blocks, each after a convolution; the last convolution begins none."""
    runs: list[int] = []
    for block in blocks[:-1]:
        if block and runs:
            runs[-1] += 1
        else:
            runs.append(0)
    return runs
