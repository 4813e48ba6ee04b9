"""What `--control`, `--adapter` and `--ip-adapter` have in common: a network, the image that it sees, and a scale."""

import math
import os
import re
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.errors import InputError
from ..core.files import is_there

Pathlike = str | os.PathLike[str]
ImageSource = Pathlike | Image.Image

IN_MEMORY = "(an image in memory)"  # stands for an image without a path in metadata
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def divided(place: str) -> tuple[str, str]:
    """Divides MODEL:IMAGE: after the longest model that exists, else at the first colon."""
    colons = [i for i, letter in enumerate(place) if letter == ":"]
    for i in reversed(colons):
        if is_there(place[:i]):
            return place[:i], place[i + 1 :]
    return (place[: colons[0]], place[colons[0] + 1 :]) if colons else (place, "")


def is_image(place: str) -> bool:
    """Returns whether the end of MODEL:IMAGE is the name of a file that exists, so that nothing is cut off it."""
    image = divided(place)[1]
    return is_there(image) and Path(image).is_file()


def without_scale(text: str) -> tuple[str, float]:
    """Divides MODEL:IMAGE[:SCALE] into MODEL:IMAGE and the scale, 1 where there is none."""
    head, _, tail = text.rpartition(":")
    return (head, float(tail)) if head and NUMBER.fullmatch(tail) and not is_image(text) else (text, 1.0)


def checked_names(model: Any, image: Any, noun: str = "an adapter") -> tuple[str, ImageSource]:
    """Returns a network's name as text, and its image; InputError where these are none. noun: for such a network."""
    if not isinstance(model, (str, os.PathLike)):
        raise InputError(f"{noun} is a folder, a file or a hub id, not {model!r}")
    if not isinstance(image, (str, os.PathLike, Image.Image)):
        raise InputError(f"the image of {os.fspath(model)} must be a path or a PIL image, not {image!r}")
    return os.fspath(model), image if isinstance(image, Image.Image) else os.fspath(image)


def checked_number(label: str, number: Any, model: str) -> float:
    """Returns a finite number; InputError for anything else."""
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise InputError(f"the {label} of {model} must be a finite number, not {number!r}")
    return float(number)


def recorded_name(source: ImageSource) -> str:
    """Returns the path of an image as metadata have it; an image in memory has none."""
    return source if isinstance(source, str) else IN_MEMORY
