"""Images that the user brings: files of any kind and PIL images of any mode -> pixels for the networks."""

import os
import warnings
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.errors import InputError
from ..core.files import missing

ImageSource = str | os.PathLike[str] | Image.Image

Pixels = NDArray[np.floating[Any]]  # (H, W, C)

_LEAST_SHARE = 1e-6  # by which a colour that counts for nothing is divided

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
        raise missing(path) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give a picture") from None
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


def inpainted(image: Image.Image) -> Image.Image:
    """Returns the colours of an RGBA image, mode RGB, continued smoothly from what is visible into what is not.

    Pixels with an alpha of one half or more keep their colour, and one with alpha 0 counts for nothing. Averages of
    ever larger cells, weighted by alpha, fill the rest ("pull-push", Gortler et al. 1996, sec. 3.4).
    """
    rgba = np.asarray(image, np.float32)
    share = np.minimum(rgba[..., 3:] / 127.5, 1)
    return Image.fromarray(_continued(rgba[..., :3] * share, share).round().clip(0, 255).astype(np.uint8))


def _continued(weighted: Pixels, share: Pixels) -> Pixels:
    """Returns colours (H, W, 3) of those times their share, where the share (H, W, 1) is 1; elsewhere coarser ones."""
    height, width = share.shape[:2]
    colours: Pixels = weighted / np.maximum(share, _LEAST_SHARE)
    if height == width == 1 or share.min() == 1:
        return colours
    sums = [_sums_of_cells(values) for values in (weighted, share)]
    excess = np.maximum(sums[1], 1)
    coarse = _continued(sums[0] / excess, sums[1] / excess)
    doubled = (2 * coarse.shape[1], 2 * coarse.shape[0])
    planes = [Image.fromarray(plane).resize(doubled, Image.Resampling.BILINEAR) for plane in np.moveaxis(coarse, 2, 0)]
    fine = np.stack([np.asarray(plane)[:height, :width] for plane in planes], axis=-1)
    continued: Pixels = share * colours + (1 - share) * fine
    return continued


def _sums_of_cells(values: Pixels) -> Pixels:
    """Returns the sums (H / 2, W / 2, C) of cells of two by two; a last row or column of odd number is its own."""
    height, width, channels = values.shape
    even = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    sums: Pixels = even.reshape(-(-height // 2), 2, -(-width // 2), 2, channels).sum((1, 3))
    return sums


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
