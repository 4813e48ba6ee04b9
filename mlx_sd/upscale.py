"""Pictures made larger: a small picture goes into the UNet beside the latents, one pixel to each latent.

The x4 upscaler of Stable Diffusion 2 is shown it with noise, of a level that it is told; latent diffusion's
super-resolution (Rombach et al. 2022, sec. 4.4) as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from PIL import Image

from . import image as pictures
from .errors import InputError
from .load import Model
from .lowres import LowRes

STEPS, STEPS_PLAIN, GUIDANCE = 75, 100, 9.0  # where nobody says otherwise; plain is without a noise level
TILE = 128  # latents a side that a UNet is given at once, at least

Normal = Callable[[tuple[int, int, int]], mx.array]


@dataclass(frozen=True)
class Small:
    """The picture to be made larger."""

    picture: Image.Image  # RGB
    factor: int  # by how much
    low_res: LowRes | None

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a generation, with the size filled in; InputError for another."""
        width, height = (side * self.factor for side in self.picture.size)
        if any(given.get(name) not in (None, side) for name, side in (("width", width), ("height", height))):
            raise InputError(
                f"this checkpoint makes pictures {self.factor} times as large, here {width} x {height}; leave out "
                "--width and --height, or resize the image first"
            )
        return {**given, "width": width, "height": height}

    def channels(self, normal: Normal, level: int | None) -> mx.array:
        """What the UNet is shown beside the latents, (1 or N, h, w, 3); `normal` draws noise of a shape for N."""
        pixels = pictures.to_pixels(self.picture)
        if self.low_res is None or level is None:
            return pixels
        _, height, width, colours = pixels.shape
        return self.low_res.noised(pixels, normal((height, width, colours)), level)


def small(model: Model, image: pictures.Source | None, channels: bool = False) -> Small | None:
    """The image given to an upscaler, opened; None for other models. InputError says what does not fit together.

    channels: whether what the UNet is shown is given in another way.
    """
    if not model.upscales:
        if image is not None:
            raise InputError(f"{model.name} makes pictures from a prompt; it takes no image")
        return None
    if image is not None and channels:
        raise InputError("give an image or channels, not both")
    if image is None:
        if not channels:
            raise InputError(f"{model.name} makes pictures larger; give one (--init-image)")
        return None
    return Small(pictures.opaque(pictures.read(image)), model.vae.config.factor, model.low_res)
