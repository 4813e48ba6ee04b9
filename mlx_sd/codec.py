"""Latents -> images and back, through a model's autoencoder."""

import mlx.core as mx
import numpy as np
from PIL import Image

from .checkpoint.model import Model
from .core.errors import Failure, InputError
from .networks.vae import EvaluateTiles, one_by_one
from .tasks import painting
from .tasks.images import ImageSource, opaque, read, to_pixels


def decode(model: Model, latents: mx.array, tile: int | None = None, evaluate: EvaluateTiles = one_by_one) -> mx.array:
    """Returns images (N, H, W, 3) in [-1, 1] of latents (N, h, w, C).

    tile: decode in tiles of so many pixels a side; 0 never; None where the image is larger than 192 latents. evaluate:
    evaluates the tiles, of which other ranks may have some. Raises Failure where the result is not finite.
    """
    model.work("vae")
    vae = model.vae
    x = vae.unscale(latents.astype(mx.float32)).astype(vae.dtype)
    image = mx.clip(vae.decode(x, _tile_of(model, latents, tile), evaluate).astype(mx.float32), -1, 1)
    if not mx.isfinite(image).all().item():
        raise Failure("the decoded picture is not finite: the VAE overflows float16 (try --dtype float32)")
    return image


def is_tiled(model: Model, latents: mx.array, tile: int | None = None) -> bool:
    """Returns whether latents (N, h, w, C) are decoded in tiles; tile: as `decode` takes it."""
    side = _tile_of(model, latents, tile)
    return 0 < side < max(latents.shape[1:3]) * model.vae.config.downsampling


def encode(model: Model, image: ImageSource, tile: int | None = None) -> mx.array:
    """Returns latents (1, h, w, C) of an image: the posterior's mean, scaled as the UNet takes them.

    tile: encode in tiles of so many pixels a side, as `decode`.
    """
    factor, opened = model.vae.config.downsampling, opaque(read(image))
    if any(side % factor for side in opened.size):
        raise InputError(f"width and height must be multiples of {factor}, not {opened.size}")
    model.work("vae")
    mean, _ = painting.posterior(model.vae, to_pixels(opened), tile)
    return model.vae.scale(mean)


def to_image(pixels: mx.array) -> Image.Image:
    """Returns a picture of pixels (H, W, 3), or a grey one of (H, W, 1), in [-1, 1], rounded to 256 levels."""
    colours = np.array(mx.round((pixels + 1) * 127.5).astype(mx.uint8))
    return Image.fromarray(colours[..., 0] if colours.shape[-1] == 1 else colours)


def _tile_of(model: Model, latents: mx.array, tile: int | None) -> int:
    """Returns the pixels a side of the tiles that latents are decoded in; 0 is no tiles."""
    return model.vae.tile(max(latents.shape[1:3]) * model.vae.config.downsampling, tile)
