"""What `--hires` says: how much larger, in how many steps, and how much of the picture changes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core.errors import InputError
from .core.suggestions import unknown

STRENGTH = 0.7
IMAGE_MODES = ("lanczos",)
LATENT_MODES = (
    "latent",
    "latent-antialiased",
    "latent-bicubic",
    "latent-bicubic-antialiased",
    "latent-nearest",
    "latent-nearest-exact",
)
MODES = (*LATENT_MODES, *IMAGE_MODES)
_LARGEST = 8.0
_TEXT = re.compile(r"(?P<scale>\d*\.?\d+)(?::(?P<steps>\d*)(?::(?P<strength>\d*\.?\d+))?)?")


@dataclass(frozen=True)
class Hires:
    """How much larger, in how many steps (None: as many as the first pass), and how much of the picture changes."""

    scale: float
    steps: int | None = None
    strength: float = STRENGTH

    def __post_init__(self) -> None:
        if not 1 < self.scale <= _LARGEST:
            raise InputError(f"--hires enlarges by more than 1, up to {_LARGEST:g} times, not {self.scale:g}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"the steps of --hires are from 1 up, not {self.steps}")
        if not 0 < self.strength <= 1:
            raise InputError(f"the strength of --hires is above 0, to 1, not {self.strength:g}")

    def __str__(self) -> str:
        return f"{self.scale:g}:{'' if self.steps is None else self.steps}:{self.strength:g}"


def parse(value: Any) -> Hires:
    """Reads what `hires=` and `--hires` take: 2, "2", "2:15", "2::0.5", "2:15:0.5" or a Hires."""
    if isinstance(value, Hires):
        return value
    match = _TEXT.fullmatch(f"{value:g}" if isinstance(value, (int, float)) else str(value).strip())
    if match is None or isinstance(value, bool):
        raise InputError(f"--hires takes SCALE[:STEPS[:STRENGTH]], for example 2 or 2:15:0.5, not {value!r}")
    steps, strength = match["steps"], match["strength"]
    return Hires(float(match["scale"]), int(steps) if steps else None, float(strength) if strength else STRENGTH)


def parse_mode(value: Any) -> str:
    """Reads what `hires_mode=` and `--hires-mode` take: one of MODES, or the name of an x4 upscaler's checkpoint.

    A name is a path that exists, or one with a slash or the suffix .safetensors. InputError for other words.
    """
    mode: str = os.fspath(value)
    if mode in MODES or "/" in mode or mode.endswith(".safetensors") or Path(mode).exists():
        return mode
    raise unknown("--hires-mode", mode, MODES, ", and x4 upscalers by path or hub id")
