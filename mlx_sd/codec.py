"""Latents -> images and back, through a model's autoencoder."""

import mlx.core as mx
import numpy as np
from PIL import Image

from .checkpoint.model import Model
from .core.errors import Failure, InputError
from .tasks import painting
from .tasks.images import ImageSource, opaque, read, to_pixels


def decode(model: Model, latents: mx.array, tile: int | None = None) -> mx.array:
    """Returns images (N, H, W, 3) in [-1, 1] of latents (N, h, w, C).

    tile: decode in tiles of so many pixels a side; 0 never; None where the image is larger than 192 latents. Raises
    Failure where the result is not finite.
    """
    vae = model.vae
    tile = vae.tile(max(latents.shape[1:3]) * vae.config.downsampling, tile)
    x = vae.unscale(latents.astype(mx.float32)).astype(vae.dtype)
    image = mx.clip(vae.decode(x, tile).astype(mx.float32), -1, 1)
    if not mx.isfinite(image).all().item():
        raise Failure("the decoded picture is not finite: the VAE overflows float16 (try --dtype float32)")
    return image


def encode(model: Model, image: ImageSource, tile: int | None = None) -> mx.array:
    """Returns latents (1, h, w, C) of an image: the posterior's mean, scaled as the UNet takes them.

    tile: encode in tiles of so many pixels a side, as `decode`.
    """
    factor, opened = model.vae.config.downsampling, opaque(read(image))
    if any(side % factor for side in opened.size):
        raise InputError(f"width and height must be multiples of {factor}, not {opened.size}")
    mean, _ = painting.posterior(model.vae, to_pixels(opened), tile)
    return model.vae.scale(mean)


def to_image(pixels: mx.array) -> Image.Image:
    """Returns a picture of pixels (H, W, 3), or a grey one of (H, W, 1), in [-1, 1], rounded to 256 levels."""
    colours = np.array(mx.round((pixels + 1) * 127.5).astype(mx.uint8))
    return Image.fromarray(colours[..., 0] if colours.shape[-1] == 1 else colours)
