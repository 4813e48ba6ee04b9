"""What `--adapter` and `--ip-adapter` take: a network beside the checkpoint, the image that it sees, and how much."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..core.errors import InputError

Pathlike = str | os.PathLike[str]
ImageSource = Pathlike | Image.Image

IN_MEMORY = "(an image in memory)"  # stands for an image without a path in metadata
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


class Adapter(NamedTuple):
    """A T2I-Adapter and its image.

    model: a diffusers folder, a single file or a hub id. image: a path or a PIL image. scale: factor of its features; 0
    leaves the picture as it is. model_hash, image_hash: of the weights and of the file, in a completed request.
    """

    model: str
    image: ImageSource
    scale: float = 1.0
    model_hash: str | None = None
    image_hash: str | None = None

    @classmethod
    def of(cls, source: Any) -> "Adapter":
        """Reads an entry of `adapters=`: an `Adapter`, a tuple (model, image) or (model, image, scale), or a text."""
        if isinstance(source, str):
            return cls(*divide(source, "--adapter")).checked()
        if not isinstance(source, Sequence) or not 2 <= len(source) <= (5 if isinstance(source, cls) else 3):
            raise InputError(f"adapters= takes (model, image), (model, image, scale) or Adapter(...), not {source!r}")
        return cls(*source).checked()

    def checked(self) -> "Adapter":
        """Returns the entry with paths as text and a float; InputError for values that make no sense."""
        model, image = checked_names(self.model, self.image)
        return self._replace(model=model, image=image, scale=checked_number("scale", self.scale, model))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Adapter":
        """Reads an entry of `adapters` in a picture's metadata."""
        return cls(**{name: record[name] for name in cls._fields if name in record}).checked()

    @property
    def files(self) -> list[tuple[ImageSource, str | None]]:
        """Returns its image with the hash, None where it is not known."""
        return [(self.image, self.image_hash)]

    def without_names(self, name: str) -> "Adapter":
        """Returns the entry with `name` in the place of names of weights and files that hashes tell."""
        model, image = (name if self.model_hash else self.model), (name if self.image_hash else self.image)
        return self._replace(model=model, image=image)

    def to_record(self) -> dict[str, Any]:
        """Returns the entry of `adapters` in a picture's metadata; an image in memory has no path."""
        values = self._asdict() | {"image": self.image if isinstance(self.image, str) else IN_MEMORY}
        return {name: value for name, value in values.items() if value is not None}


def divide(text: str, option: str) -> tuple[str, str, float]:
    """Divides MODEL:IMAGE[:SCALE]; a name that exists may have colons. InputError names the option and the form."""
    place, scale = text, 1.0
    head, _, tail = text.rpartition(":")
    if head and _NUMBER.fullmatch(tail) and not Path(_pair(text)[1]).is_file():
        place, scale = head, float(tail)
    model, image = _pair(place)
    if not model or not image:
        raise InputError(
            f"{option} takes MODEL:IMAGE[:SCALE], for example sketch.safetensors:drawing.png:0.8, not {text!r}"
        )
    return model, image, scale


def _pair(place: str) -> tuple[str, str]:
    """Divides MODEL:IMAGE after the longest model that exists, else at the first colon."""
    colons = [i for i, letter in enumerate(place) if letter == ":"]
    for i in reversed(colons):
        if Path(place[:i]).exists():
            return place[:i], place[i + 1 :]
    return (place[: colons[0]], place[colons[0] + 1 :]) if colons else (place, "")


def checked_names(model: Any, image: Any) -> tuple[str, ImageSource]:
    """Returns a network's name as text, and its image; InputError where these are none."""
    if not isinstance(model, (str, os.PathLike)):
        raise InputError(f"an adapter is a folder, a file or a hub id, not {model!r}")
    if not isinstance(image, (str, os.PathLike, Image.Image)):
        raise InputError(f"the image of {os.fspath(model)} must be a path or a PIL image, not {image!r}")
    return os.fspath(model), image if isinstance(image, Image.Image) else os.fspath(image)


def checked_number(label: str, number: Any, model: str) -> float:
    """Returns a finite number; InputError for anything else."""
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise InputError(f"the {label} of {model} must be a finite number, not {number!r}")
    return float(number)


# An entry of `adapters=`
AdapterSource = Adapter | str | tuple[str, ImageSource] | tuple[str, ImageSource, float]
