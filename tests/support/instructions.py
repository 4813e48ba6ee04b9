"""Tiny random InstructPix2Pix checkpoints as diffusers folders: of Stable Diffusion 1, of SDXL, and CosXL Edit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support import families

CHANNELS = 8
PIPELINES = {
    "sd1": {"_class_name": "StableDiffusionInstructPix2PixPipeline"},
    "sdxl": {"_class_name": "StableDiffusionXLInstructPix2PixPipeline"},
    "cosxl": {"_class_name": "StableDiffusionXLInstructPix2PixPipeline", "is_cosxl_edit": True},
}


def write(shapes: Mapping[str, Any], path: Path, name: str) -> Path:
    """Writes one of PIPELINES as a diffusers folder."""
    family = "sdxl" if name == "cosxl" else name
    wide = {**shapes[family], "unet": shapes[family]["unet"] | {"conv_in.weight": [32, CHANNELS, 3, 3]}}
    families.write_folder(family, wide, path)
    _change(path / "unet" / "config.json", {"in_channels": CHANNELS})
    _change(path / "model_index.json", PIPELINES[name])
    return path


def picture(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Returns an image to be edited, smooth enough that neighbours resemble each other."""
    small = np.random.RandomState(5).randint(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def _change(file: Path, values: Mapping[str, Any]) -> None:
    stored = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(stored | values), encoding="utf-8")
