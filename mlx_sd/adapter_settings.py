"""The settings of a request about networks beside the checkpoint's own: another autoencoder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import request_values
from .setting import Range, setting

if TYPE_CHECKING:
    from .checkpoint.adapter import Adapter
    from .checkpoint.ip_adapter import ImagePrompt


def _path(value: Any) -> str:
    """Returns a path as text."""
    path: str = os.fspath(value)
    return path


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Holds what is put beside or in the place of a checkpoint's networks; None is the checkpoint alone."""

    lora_mode: str | None = setting(
        None,
        "merge LoRAs into the weights, or keep them beside the layers (runtime), also of a quantized model (default "
        "merge)",
        choices=("merge", "runtime"),
        always_recorded=False,
        aliases="lora-apply-mode",
        values={"immediately": "merge", "at_runtime": "runtime"},
    )
    vae: str | None = setting(
        None,
        "another autoencoder, for encoding and decoding: taesd (SD 1 and 2) or taesdxl, small and fast; a file, a "
        "folder or a hub id",
        kind=object,
        parse=_path,
        always_recorded=False,
        metavar="NAME",
        aliases="vae-path vae-name vae-file sd-vae vae-decoder taesd",
    )
    adapters: tuple[Adapter, ...] = request_values.entries_setting(
        ".checkpoint.adapter",
        "Adapter",
        "let a T2I-Adapter (folder, file or hub id) see an image: a sketch, edges, depth or a pose, as trained; may "
        "be repeated",
        flag="--adapter",
        metavar="MODEL:IMAGE[:SCALE]",
        group="image",
        always_recorded=False,
        aliases="t2i-adapter",
    )
    adapter_factor: float | None = setting(
        None,
        "share of the evaluations, from the first on, at which --adapter acts (default 1)",
        kind=float,
        range=Range(0, 1),
        metavar="SHARE",
        group="image",
        always_recorded=False,
        aliases="adapter-conditioning-factor",
    )
    ip_adapters: tuple[ImagePrompt, ...] = request_values.entries_setting(
        ".checkpoint.ip_adapter",
        "ImagePrompt",
        "take an image as a prompt, by an IP-Adapter: a .safetensors file, or OWNER/NAME/PATH on the hub; BLOCKS is "
        "style, layout or style+layout (SDXL), or scales by block in JSON; the mask is white where the image acts; may "
        "be repeated",
        flag="--ip-adapter",
        metavar="MODEL:IMAGE[,IMAGE][:SCALE][:BLOCKS][:mask=FILE]",
        group="image",
        always_recorded=False,
    )
    ip_encoder: str | None = setting(
        None,
        "the image encoder of --ip-adapter (default: the folder image_encoder beside it)",
        kind=object,
        parse=_path,
        group="image",
        always_recorded=False,
        metavar="PATH",
        aliases="image-encoder clip-vision",
    )
    vae_hash: str | None = setting(None, "of that autoencoder's weights", hidden=True, always_recorded=False)
