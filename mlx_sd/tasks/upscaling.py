"""Pictures made larger: a small picture goes into the UNet beside the latents, one pixel to each latent.

The x4 upscaler of Stable Diffusion 2 is shown it with noise, of a level that it is told; latent diffusion's
super-resolution (Rombach et al. 2022, sec. 4.4) as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import mlx.core as mx
from PIL import Image

from ..checkpoint.model import Model
from ..core.errors import InputError
from ..sampling.low_res import LowRes
from ..settings import Settings
from . import images as pictures
from .task import Normal, Start


@dataclass(frozen=True)
class Small:
    """The picture to be made larger."""

    picture: Image.Image  # RGB
    factor: int  # by how much
    low_res: LowRes | None
    level: int

    def settings(self, model: Model, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a generation, with the size filled in; InputError for another."""
        if given.get("strength") is not None:
            _refuse(model, "strength")
        width, height = (side * self.factor for side in self.picture.size)
        if any(given.get(name) not in (None, side) for name, side in (("width", width), ("height", height))):
            raise InputError(
                f"this checkpoint makes pictures {self.factor} times as large, here {width} x {height}; leave out "
                "--width and --height, or resize the image first"
            )
        return {**given, "width": width, "height": height}

    def midway(self, chosen: Settings) -> bool:
        """Never."""
        return False

    def starter(self, model: Model, chosen: Settings, pictures: int, tile: int | None) -> "Small":
        """This."""
        return self

    def finish(self, picture: Image.Image) -> Image.Image:
        """As it is."""
        return picture

    def start(self, normal: Normal, noise: mx.array | None, places: Sequence[int]) -> Start:
        """Draws what a batch begins with, in diffusers' order: the small picture's noise, then that of the latents."""
        pixels = pictures.to_pixels(self.picture)
        if self.low_res is not None:
            pixels = self.low_res.noised(pixels, normal(pixels.shape[-1]), self.level)
        return Start(normal() if noise is None else noise, channels=pixels)


def small(
    model: Model,
    image: pictures.Source | None,
    level: int | None,
    others: Mapping[str, Any],
    channels: bool = False,
) -> Small | None:
    """The image given to an upscaler, opened; None where what it is shown is given in another way, as `channels`.

    level: of the noise; None is the usual. `others` are what only other checkpoints take. InputError says what does not
    fit together.
    """
    if image is None and not channels:
        raise InputError(f"{model.name} makes pictures larger; give it one (--init-image)")
    if image is not None and channels:
        raise InputError("give an image or channels, not both")
    for name, value in others.items():
        if value:
            _refuse(model, name.replace("_", " "))
    if image is None:
        return None
    level = model.low_res.level(level) if model.low_res else 0
    return Small(pictures.opaque(pictures.read(image)), model.vae.config.downsampling, model.low_res, level)


def _refuse(model: Model, name: str) -> NoReturn:
    raise InputError(f"{model.name} makes pictures larger, all of them and as they are; it takes no {name}")
