"""Control images: what a user brings, or what is made of a photo -> pixels for a control network."""

from collections.abc import Callable, Mapping

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.errors import InputError
from ..core.suggestions import unknown
from . import edges, images
from .images import ImageSource

Size = tuple[int, int]
Maker = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]  # of pixels (H, W, 3) -> (H, W) or (H, W, 3)

_HALF = 127  # of alpha or a mask: above it, a pixel is of what it says
_HIDDEN = -1.0  # what inpainting networks see where the picture is to be painted
_NEAR = 16  # pixels by which a side may miss the picture's shape: that of rounding to whole latents

MAKERS: Mapping[str, Maker] = {
    "canny": edges.canny,
    "scribble": edges.scribble,
    "softedge": edges.soft,
    "tile": lambda pixels: pixels,
    "grey": lambda pixels: edges.grey(pixels).round().astype(np.uint8),
}
INPAINT = "inpaint"


def shape_for(image: Image.Image, native: Size, width: int | None, height: int | None, multiple: int) -> Size:
    """Returns the size of a picture that has a control image's shape.

    native: the checkpoint's own size, whose area it has unless width or height are requested.
    """
    wide, high = image.size
    scale = (native[0] * native[1] / (wide * high)) ** 0.5
    if width is not None or height is not None:
        scale = width / wide if width is not None else (height or 0) / high
    near = images.nearest((wide * scale, high * scale), multiple)
    return near[0] if width is None else width, near[1] if height is None else height


def check_shape(image: Image.Image, size: Size, name: str) -> None:
    """Raises InputError where an image would be distorted at (width, height); name: of its network."""
    (wide, high), (width, height) = image.size, size
    if min(abs(width * high / wide - height), abs(height * wide / high - width)) > _NEAR:
        raise InputError(
            f"the image for {name} is {wide} x {high}, which is not the shape of a picture of {width} x {height}; "
            "crop it, or leave width and height out"
        )


def pixels(source: ImageSource, maker: str | None, size: Size, mask: ImageSource | None = None) -> mx.array:
    """Returns pixels (1, H, W, 3) in [0, 1] of an image at (width, height), where there is a maker made of it.

    mask: white where the picture is painted, for "inpaint"; without one, the image's own transparent part is painted.
    There the pixels are -1.
    """
    opened = images.read(source)
    array = np.asarray(images.fitted(images.opaque(opened), size))
    if maker == INPAINT:
        hidden = np.asarray(images.fitted(_hidden(opened, mask), size)) > _HALF
        shown = np.where(hidden[..., None], _HIDDEN, array.astype(np.float32) / 255)
        return mx.array(shown.astype(np.float32))[None]
    if maker is not None:
        array = _applied(array, maker)
    return mx.array(array.astype(np.float32))[None] / 255


def control_image(photo: ImageSource, maker: str, size: Size | None = None) -> Image.Image:
    """Makes a control image of a photo, to be looked at, changed or used elsewhere; RGB.

    maker: "canny", "scribble", "softedge", "tile" or "grey". size: (width, height), by default the photo's own; give
    the size of the picture, since edges of another size are other edges. Raises InputError for another maker: "inpaint"
    has pixels of -1, which no image holds.
    """
    if maker not in MAKERS:
        raise unknown("maker of control images", maker, MAKERS, " (inpaint is made within --control)")
    opened = images.opaque(images.read(photo))
    return Image.fromarray(_applied(np.asarray(images.fitted(opened, size or opened.size)), maker))


def _applied(array: NDArray[np.uint8], maker: str) -> NDArray[np.uint8]:
    """Returns pixels (H, W, 3) of the control image that is made of pixels (H, W, 3)."""
    array = MAKERS[maker](array)
    return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=-1)


def _hidden(image: Image.Image, mask: ImageSource | None) -> Image.Image:
    """Returns an image of mode L that is white where the picture is painted."""
    if mask is not None and mask != "alpha":
        return images.opaque(images.read(mask), "black").convert("L")
    if image.mode != "RGBA":
        raise InputError("the inpaint control image shows nothing to paint; give --mask, or a transparent image")
    return image.getchannel("A").point(lambda value: 255 - value)
