"""Whatever `--model` and `--control` take -> a checkpoint: an embedded one, a folder, a single file or a hub id."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlx_sd.checkpoint import tiny_vaes
from mlx_sd.core.embedded import CHECKPOINTS, place
from mlx_sd.core.errors import InputError
from mlx_sd.core.version import VERSION
from mlx_sd.networks.configs import is_tiny

from ..files import hub
from . import control_network, diffusers_folder, hub_checkpoint, single_file, single_file_parts
from .checkpoint import Checkpoint, Component, SourceOptions
from .single_file_kinds import Text

_ADDRESS = re.compile(r"https?:/+(?:huggingface\.co/([\w.-]+/[\w.-]+)/?$)?", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ONLY_SINGLE_FILES = ("ema", "kind", "prediction", "tokenizer")
# Fields of a VAE's config that its weights do not tell
_SCALE = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast", "sample_size")


def open_checkpoint(model: str, options: SourceOptions | None = None) -> Checkpoint:
    """Opens "tiny", a diffusers folder, a single file or a hub id, with the parts that `options` replaces.

    A ControlNet is opened as a checkpoint of one network.

    Raises InputError for whatever cannot be converted. The `provenance` records what is known of the source.
    """
    options = options or SourceOptions()
    if address := _ADDRESS.match(model):
        advice = f"say {address[1]}" if address[1] else "download it and give the name of the file"
        raise InputError(f"{model} is a web address; {advice}")
    path = place(model, CHECKPOINTS)
    if not path.exists() and hub.is_id(model):
        path = hub_checkpoint.fetch(model, options.variant)
    if path.exists() and control_network.is_control(path):
        checkpoint = control_network.read(path, options)
    else:
        checkpoint = single_file.read(path, options) if path.is_file() else _folder(path, options)
    if options.vae and "unet" in checkpoint.components:
        tiny_vaes.check(str(options.vae), "addition_embed_type" in checkpoint.components["unet"].config)
    root = path if path.is_dir() else path.parent
    revision = root.name if root.parent.name == "snapshots" and _COMMIT.fullmatch(root.name) else None
    settings = {name: str(value) for name, value in asdict(options).items() if value}
    record = {"revision": revision, "settings": settings, "converter": f"mlx-sd {VERSION}"}
    return replace(checkpoint, provenance=checkpoint.provenance | record)


def open_vae(path: Path, replaced: Mapping[str, Any]) -> Component:
    """Opens a VAE on its own, in the place of another: a file, a folder, a hub id or a tiny autoencoder's name.

    replaced: the config of that other, whose latents have the same scale. Raises InputError where it is no VAE.
    """
    scale = {key: replaced[key] for key in _SCALE if key in replaced}
    return single_file_parts.standalone_vae(path, {} if is_tiny(replaced) else scale)


def _folder(path: Path, options: SourceOptions) -> Checkpoint:
    for name in _ONLY_SINGLE_FILES:
        if getattr(options, name):
            raise InputError(f"--{name} is for single files, whose configs are not known; {path} has its own")
    checkpoint = diffusers_folder.read(path, options.variant)
    replaced: dict[str, Component] = {}
    if options.vae and "vae" not in checkpoint.components:
        raise InputError(f"{path} has no vae to replace: it works on pixels")
    if options.vae:
        replaced["vae"] = open_vae(options.vae, checkpoint.components["vae"].config)
    for part, file in (("text_encoder", options.text_encoder), ("text_encoder_2", options.text_encoder_2)):
        if file and part in checkpoint.components:
            config = checkpoint.components[part].config
            projected = config.get("architectures") == ["CLIPTextModelWithProjection"]
            text = Text((), config.get("hidden_act", "quick_gelu"), projected=projected)
            replaced[part] = single_file_parts.standalone_text_encoder(file, part, text)
        elif file:
            raise InputError(f"{path} has no {part} to replace")
    return replace(checkpoint, components=checkpoint.components | replaced)
