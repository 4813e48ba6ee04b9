"""Images made larger: a small image goes into the UNet beside the latents, one pixel to each latent.

The x4 upscaler of Stable Diffusion 2 is shown it with noise, of a level that it is told; latent diffusion's
super-resolution (Rombach et al. 2022, sec. 4.4) without noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
from PIL import Image

from ..checkpoint.model import Model
from ..core.errors import InputError
from ..sampling.low_res import LowRes
from . import images
from .images import ImageSource
from .start import AllSteps, DrawNoise, Start


@dataclass(frozen=True)
class SmallImage(AllSteps):
    """The image to be made larger."""

    image: Image.Image  # RGB
    factor: int  # how many times as wide and as high the picture is
    low_res: LowRes | None
    level: int  # of the noise, a training timestep

    def size(self, model: Model, width: int | None, height: int | None) -> tuple[int | None, int | None]:
        """Returns the enlarged size; InputError where another one is requested."""
        large = self.image.width * self.factor, self.image.height * self.factor
        if width not in (None, large[0]) or height not in (None, large[1]):
            raise InputError(
                f"this checkpoint makes pictures {self.factor} times as large, here {large[0]} x {large[1]}; leave out "
                "--width and --height, or resize the image first"
            )
        return large

    def prepare(
        self, model: Model, width: int, height: int, strength: float | None, count: int, tile: int | None
    ) -> "SmallImage":
        """Returns itself: nothing is encoded."""
        return self

    def start(self, draw_noise: DrawNoise, noise: mx.array | None, indices: Sequence[int]) -> Start:
        """Draws in diffusers' order: the noise of the small image, then that of the latents."""
        pixels = images.to_pixels(self.image)
        if self.low_res is not None:
            pixels = self.low_res.noised(pixels, draw_noise(pixels.shape[-1]), self.level)
        return Start(draw_noise() if noise is None else noise, channels=pixels)


def small_image(
    model: Model,
    image: ImageSource | None,
    level: int | None,
    unsupported: Sequence[str] = (),
    channels: bool = False,
) -> SmallImage | None:
    """Opens the image for an upscaler; returns None where the UNet is shown `channels` in its place.

    level: of the noise; None is the default. unsupported: names of settings of the request that only other checkpoints
    take. InputError says what does not fit together.
    """
    if image is None and not channels:
        raise InputError(f"{model.name} makes pictures larger; give it one (--init-image)")
    if image is not None and channels:
        raise InputError("give an image or channels, not both")
    if unsupported:
        name = unsupported[0].replace("_", " ")
        raise InputError(f"{model.name} makes pictures larger, all of them and as they are; it takes no {name}")
    if image is None:
        return None
    level = model.low_res.level(level) if model.low_res else 0
    return SmallImage(images.opaque(images.read(image)), model.vae.config.downsampling, model.low_res, level)
