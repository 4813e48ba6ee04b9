"""Images for CLIP's image encoder, and masks of the picture for the attention to them."""

import math

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import images
from .images import ImageSource

# Of the pixels that CLIP was trained on
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_CUBIC = -0.75  # the parameter of PyTorch's bicubic interpolation (Keys 1981)
_HALF = 127


def pixels(source: ImageSource, side: int) -> mx.array:
    """Returns normalised pixels (1, side, side, 3): the shorter side is resized by bicubic, the middle cut out."""
    image = images.opaque(images.read(source))
    width, height = image.size
    short = min(width, height)
    size = (int(side * width / short), int(side * height / short))
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    array = np.asarray(resized.crop((left, top, left + side, top + side)), np.float32) / 255
    return mx.array((array - np.array(_MEAN, np.float32)) / np.array(_DEVIATION, np.float32))[None]


def mask(image: Image.Image, size: tuple[int, int]) -> mx.array:
    """Returns a mask (1, H, W) of 0 and 1 at (width, height): 1 where the image prompt acts."""
    grey = images.fitted(images.opaque(image, "black").convert("L"), size)
    return mx.array((np.asarray(grey) > _HALF).astype(np.float32))[None]


def mask_of_queries(mask: mx.array, count: int) -> mx.array:
    """Returns a mask (1, H, W) at the resolution of `count` queries, (1, count), as diffusers resizes it."""
    _, height, width = mask.shape
    rows = int(math.sqrt(count / (width / height)))
    rows += int(count % rows != 0)
    columns = count // rows
    vertical, horizontal = (mx.array(_bicubic(a, b)) for a, b in ((height, rows), (width, columns)))
    small = (vertical @ mask[0] @ horizontal.T).reshape(-1)[:count]
    return mx.pad(small, (0, count - small.size))[None]


def _bicubic(length: int, size: int) -> NDArray[np.float32]:
    """Returns the matrix (size, length) of PyTorch's bicubic interpolation without antialiasing."""
    weights = np.zeros((size, length), np.float32)
    for i in range(size):
        position = (i + 0.5) * length / size - 0.5
        first = math.floor(position)
        for offset in range(-1, 3):
            distance = abs(position - first - offset)
            place = min(max(first + offset, 0), length - 1)
            weights[i, place] += _cubic(distance)
    return weights


def _cubic(x: float) -> float:
    if x <= 1:
        return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    return ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
