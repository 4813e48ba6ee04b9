"""What `--lora` takes: an adapter and how much of it."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import InputError

Pathlike = str | os.PathLike[str]
Given = Pathlike | tuple[Pathlike, float] | tuple[Pathlike, float, Sequence[float]]


class Lora(NamedTuple):
    """An adapter (a safetensors file, a folder with one, or a hub id) and its scale: 0 leaves the model as it is.

    blocks: factors beside the scale for the stages of the UNet, in the order of `convert.adapters.block_weights`; empty
    is 1 for all.
    """

    path: str
    scale: float = 1.0
    blocks: tuple[float, ...] = ()

    @classmethod
    def of(cls, given: Given) -> "Lora":
        """What `StableDiffusion.load(loras=[...])` takes: a path, or a tuple of it, its scale and block weights."""
        held: Any = given if isinstance(given, tuple) else (given,)
        lora = cls(*held)
        for number in (lora.scale, *lora.blocks):
            if not isinstance(number, (int, float)) or not math.isfinite(number):
                raise InputError(f"LoRA {os.fspath(lora.path)}: the scale must be a finite number, not {number!r}")
        return cls(os.fspath(lora.path), float(lora.scale), tuple(map(float, lora.blocks)))

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """Reads what `--lora` takes: "PATH", "PATH:SCALE" or "PATH:SCALE:WEIGHT,WEIGHT,..."."""
        if Path(text).exists():
            return cls.of(text)
        blocks: tuple[Any, ...] = ()
        path, scale = text, 1.0
        head, _, tail = path.rpartition(":")
        if head and "," in tail and None not in (weights := [_number(word) for word in tail.split(",")]):
            path, blocks = head, tuple(weights)
            head, _, tail = path.rpartition(":")
        if head and (number := _number(tail)) is not None:  # else the colon is the path's own
            path, scale = head, number
        return cls.of((path, scale, blocks))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
