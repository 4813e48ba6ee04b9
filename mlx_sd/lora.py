"""What `--lora` takes: an adapter and how much of it."""

import math
import os
from pathlib import Path
from typing import NamedTuple

from .errors import InputError

Given = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]


class Lora(NamedTuple):
    """An adapter (a safetensors file, a folder with one, or a hub id) and its scale: 0 leaves the model as it is."""

    path: str
    scale: float = 1.0

    @classmethod
    def of(cls, given: Given) -> "Lora":
        """What `StableDiffusion.load(loras=[...])` takes: a path, or a pair of path and scale."""
        path, scale = given if isinstance(given, tuple) else (given, 1.0)
        if not isinstance(scale, (int, float)) or not math.isfinite(scale):
            raise InputError(f"LoRA {os.fspath(path)}: the scale must be a finite number, not {scale!r}")
        return cls(os.fspath(path), float(scale))

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """Reads what `--lora` takes: "PATH" or "PATH:SCALE"."""
        path, colon, scale = text.rpartition(":")
        if not colon or Path(text).exists():
            return cls.of(text)
        try:
            return cls.of((path, float(scale)))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            return cls.of(text)  # the colon was the path's own
