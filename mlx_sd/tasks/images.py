"""Pictures that come in: files of any kind and PIL images of any mode -> what the networks take."""

import os
import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.errors import InputError

Source = str | os.PathLike[str] | Image.Image

_WORDS = {"I;16": 257.0, "I;16L": 257.0, "I;16B": 257.0, "I;16N": 257.0, "I": 257.0, "F": 1.0}  # mode -> of its 255th


def read(source: Source) -> Image.Image:
    """A picture, wholly read and turned as its EXIF says, of mode L, RGB or RGBA; InputError if it cannot be read."""
    if isinstance(source, Image.Image):
        return _plain(ImageOps.exif_transpose(source), "the picture")
    path = Path(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return _plain(ImageOps.exif_transpose(image), str(path))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller first") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is not a picture that can be read ({error})") from None


def opaque(image: Image.Image, ground: str = "white") -> Image.Image:
    """The colours of a picture, mode RGB; what is transparent lies over `ground`."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    below = Image.new("RGBA", image.size, ground)
    return Image.alpha_composite(below, image).convert("RGB")


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at (width, height), by Lanczos as in diffusers; untouched where it has that size."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def nearest(size: tuple[float, float], factor: int) -> tuple[int, int]:
    """(width, height) with both sides the nearest multiple of `factor`, at least one of it."""
    width, height = (max(round(side / factor), 1) * factor for side in size)
    return width, height


def to_pixels(image: Image.Image) -> mx.array:
    """(1, H, W, 3) in [-1, 1] of a picture of mode RGB."""
    return mx.array(np.asarray(image, np.float32))[None] / 127.5 - 1


def _plain(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise InputError(f"{name} is empty: {image.width} x {image.height} pixels")
    if image.mode in _WORDS:  # PIL would clip these at 255
        values = np.asarray(image, np.float32) / _WORDS[image.mode]
        return Image.fromarray(np.clip(np.nan_to_num(values).round(), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
