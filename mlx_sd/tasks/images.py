"""Images that the user brings: files of any kind and PIL images of any mode -> pixels for the networks."""

import os
import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.errors import InputError

ImageSource = str | os.PathLike[str] | Image.Image

# Modes of more than 8 bits -> what a value is divided by to be one of 0 to 255.
_DIVISORS = {"I;16": 257.0, "I;16L": 257.0, "I;16B": 257.0, "I;16N": 257.0, "I": 257.0, "F": 1.0}


def read(source: ImageSource) -> Image.Image:
    """Reads an image completely and turns it as its EXIF says; mode L, RGB or RGBA. InputError where that fails."""
    if isinstance(source, Image.Image):
        return _to_common_mode(ImageOps.exif_transpose(source), "the picture")
    path = Path(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return _to_common_mode(ImageOps.exif_transpose(image), str(path))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller first") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is not a picture that can be read ({error})") from None


def opaque(image: Image.Image, ground: str = "white") -> Image.Image:
    """Returns the image in mode RGB; transparent parts lie over the colour `ground`."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    below = Image.new("RGBA", image.size, ground)
    return Image.alpha_composite(below, image).convert("RGB")


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Returns the image at (width, height), by Lanczos as in diffusers; unchanged where it has that size."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def nearest(size: tuple[float, float], factor: int) -> tuple[int, int]:
    """Returns (width, height) rounded to the nearest multiples of `factor`, at least one of it a side."""
    width, height = (max(round(side / factor), 1) * factor for side in size)
    return width, height


def to_pixels(image: Image.Image) -> mx.array:
    """Returns pixels (1, H, W, 3), float32 in [-1, 1], of an image of mode RGB."""
    return mx.array(np.asarray(image, np.float32))[None] / 127.5 - 1


def _to_common_mode(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise InputError(f"{name} is empty: {image.width} x {image.height} pixels")
    if image.mode in _DIVISORS:  # PIL would clip these at 255
        values = np.asarray(image, np.float32) / _DIVISORS[image.mode]
        return Image.fromarray(np.clip(np.nan_to_num(values).round(), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
