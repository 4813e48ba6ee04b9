"""Writes a network on its own, beside any model, as a folder of the cache: complete or not at all."""

import json
from pathlib import Path

from mlx_sd.checkpoint.network_folder import FORMAT, VERSION
from mlx_sd.checkpoint.network_names import JSON
from mlx_sd.core.files import atomic_folder, sha256
from mlx_sd.core.terminal import progress

from ..files.safetensors_stream import write_tensors
from ..sources.checkpoint import Component
from .model_folder import entry, plan


def write_network_folder(part: str, component: Component, out: Path, source: str) -> None:
    """Writes the folder `out`, which must not exist, of one network; every weight is checked before the first byte.

    part: as `mlx_sd.checkpoint.model_folder.build` takes it. source: recorded as it is.
    """
    entries = [entry(*row) for row in plan(part, component, component.files[0])]
    total = sum(row.size for row in entries)
    with atomic_folder(out, total) as folder, progress(total, "convert") as advance:
        digest = write_tensors(folder / f"{part}.safetensors", entries, advance)
        about = {
            "format": FORMAT,
            "version": VERSION,
            "part": part,
            "config": component.config,
            "source": {"name": source, "sha256": {file.name: sha256(file) for file in component.files}},
            "files": {f"{part}.safetensors": digest},
        }
        (folder / JSON).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
