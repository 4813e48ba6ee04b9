"""Whatever `--model` takes -> a checkpoint: a diffusers folder, a single file or a hub id."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlx_sd.checkpoint.model_folder import EMBEDDED
from mlx_sd.core.errors import InputError
from mlx_sd.core.version import VERSION

from ..files import hub
from . import diffusers_folder, hub_checkpoint, single_file, single_file_kinds
from .checkpoint import Checkpoint, Component, SourceOptions

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ONLY_SINGLE = ("ema", "kind", "prediction", "tokenizer")
# What a VAE's config says that its weights do not
_SCALE = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast", "sample_size")


def open_checkpoint(model: str, options: SourceOptions | None = None) -> Checkpoint:
    """Opens "tiny", a diffusers folder, a single file or a hub id, with the parts that `options` replaces.

    Raises InputError for whatever cannot be converted. What is recorded of the source is in its `provenance`.
    """
    options = options or SourceOptions()
    path = EMBEDDED.get(model) or Path(model).expanduser()
    if not path.exists() and hub.is_id(model):
        path = hub_checkpoint.fetch(model, options.variant)
    found = single_file.read(path, options) if path.is_file() else _folder(path, options)
    root = path if path.is_dir() else path.parent
    revision = root.name if root.parent.name == "snapshots" and _COMMIT.fullmatch(root.name) else None
    settings = {name: str(value) for name, value in asdict(options).items() if value}
    return replace(
        found,
        provenance=found.provenance | {"revision": revision, "settings": settings, "converter": f"mlx-sd {VERSION}"},
    )


def _folder(path: Path, options: SourceOptions) -> Checkpoint:
    for name in _ONLY_SINGLE:
        if getattr(options, name):
            raise InputError(f"--{name} is for single files, whose configs are not known; {path} has its own")
    found = diffusers_folder.read(path, options.variant)
    parts: dict[str, Component] = {}
    if options.vae and "vae" not in found.components:
        raise InputError(f"{path} has no vae to replace: it works on pixels")
    if options.vae:
        config: dict[str, Any] = found.components["vae"].config
        parts["vae"] = single_file.standalone_vae(options.vae, {k: config[k] for k in _SCALE if k in config})
    for part, given in (("text_encoder", options.text_encoder), ("text_encoder_2", options.text_encoder_2)):
        if given and part in found.components:
            config = found.components[part].config
            projected = config.get("architectures") == ["CLIPTextModelWithProjection"]
            text = single_file_kinds.Text((), config.get("hidden_act", "quick_gelu"), projected=projected)
            parts[part] = single_file.standalone_text(given, part, text)
        elif given:
            raise InputError(f"{path} has no {part} to replace")
    return replace(found, components=found.components | parts)
