"""What `--lora` takes: an adapter and how much of it."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core.errors import InputError
from ..core.files import is_there

Pathlike = str | os.PathLike[str]
LoraSource = Pathlike | tuple[Pathlike, float] | tuple[Pathlike, float, Sequence[float]]


class Lora(NamedTuple):
    """An adapter (a safetensors file, a folder with one, or a hub id) and its scale: 0 leaves the model as it is.

    blocks: factors beside the scale for the stages of the UNet, in the order of `convert.adapters.block_weights`; empty
    is 1 for all. sha256: of the file, where it has been merged.
    """

    path: str
    scale: float = 1.0
    blocks: tuple[float, ...] = ()
    sha256: str | None = None

    @classmethod
    def of(cls, source: LoraSource) -> "Lora":
        """Reads an entry of `StableDiffusion.load(loras=[...])`: what `parse` reads, or a tuple of path and scale."""
        if isinstance(source, str):
            return cls.parse(source)
        entry: Any = source if isinstance(source, tuple) else (source,)
        lora = cls(*entry)
        for number in (lora.scale, *lora.blocks):
            if not isinstance(number, (int, float)) or not math.isfinite(number):
                raise InputError(f"LoRA {os.fspath(lora.path)}: the scale must be a finite number, not {number!r}")
        return cls(os.fspath(lora.path), float(lora.scale), tuple(map(float, lora.blocks)), lora.sha256)

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """Reads the text of `--lora`: "PATH", "PATH:SCALE" or "PATH:SCALE:WEIGHT,WEIGHT,..."."""
        if is_there(text):
            return cls.of((text, 1.0))
        blocks: tuple[Any, ...] = ()
        path, scale = text, 1.0
        head, _, tail = path.rpartition(":")
        if head and "," in tail and None not in (weights := [_number(word) for word in tail.split(",")]):
            path, blocks = head, tuple(weights)
            head, _, tail = path.rpartition(":")
        if head and (number := _number(tail)) is not None:  # else the colon belongs to the path
            path, scale = head, number
        return cls.of((path, scale, blocks))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Lora":
        """Reads an entry of `loras` in model.json or in a picture's metadata."""
        lora = cls.of((record["path"], record["scale"], record.get("blocks", ())))
        return lora._replace(sha256=record["sha256"])

    def to_record(self) -> dict[str, Any]:
        """Returns the entry of `loras` in model.json and in a picture's metadata."""
        record = {"path": self.path, "sha256": self.sha256, "scale": self.scale}
        return record | ({"blocks": list(self.blocks)} if self.blocks else {})


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
