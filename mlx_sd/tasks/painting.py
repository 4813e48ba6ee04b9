"""Pictures made from pictures: image to image, and painting into the masked part of one.

A checkpoint that paints (nine input channels) is shown the mask and what is kept beside the latents. Any other is led:
after each step the kept part of the latents is put back, with the noise of the level they are then at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image, ImageChops, ImageFilter

from ..checkpoint.model import Model
from ..core.errors import Failure, InputError
from ..networks.vae import Autoencoder
from ..settings import Settings
from . import images as pictures
from .images import Source
from .task import Normal, Start

STRENGTH, PADDING = 0.8, 32  # of image to image, and pixels around --only-masked
ALPHA = "alpha"  # as a mask: what is transparent in the image is painted

_TASKS = {3: "makes pictures larger", 4: "edits pictures by instruction"}  # by channels beside the latents

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Canvas:
    """A picture to begin with, and which part of it is to be painted."""

    picture: Image.Image  # RGB
    mask: Image.Image | None = None  # L of the picture's size, 255 where to paint, else 0; None is everywhere
    blur: float = 0.0  # pixels over which the painted part fades in, from the mask's edge inwards
    padding: int | None = None  # of --only-masked; None is the whole picture

    def settings(self, model: Model, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a generation, with size and strength filled in.

        The size to paint at is that wanted, else the picture's, in whole latents, else, of a part, the checkpoint's.
        """
        width, height = given.get("width"), given.get("height")
        strength = given.get("strength")
        if strength is None:
            strength = STRENGTH if self.mask is None else 1.0
        if self.padding is None and (width is None or height is None):
            w, h = self.picture.size
            scale = width / w if width is not None else height / h if height is not None else 1
            near = pictures.nearest((w * scale, h * scale), model.vae.config.downsampling)
            width, height = near[0] if width is None else width, near[1] if height is None else height
        return {**given, "width": width, "height": height, "strength": strength}

    def box(self, width: int, height: int) -> Box:
        """The part of the picture that is painted at (width, height): as near to that shape as the picture allows."""
        if self.padding is None or self.mask is None:
            return (0, 0, *self.picture.size)
        left, top, right, bottom = self.mask.getbbox() or (0, 0, *self.picture.size)
        w, h = self.picture.size
        left, top = max(left - self.padding, 0), max(top - self.padding, 0)
        right, bottom = min(right + self.padding, w), min(bottom + self.padding, h)
        wide, high = round((bottom - top) * width / height), round((right - left) * height / width)
        left, right = _grown(left, right, wide, w)
        top, bottom = _grown(top, bottom, high, h)
        return left, top, right, bottom

    def midway(self, chosen: Settings) -> bool:
        """Unless all of a masked part is new."""
        return self.mask is None or chosen.strength != 1

    def starter(self, model: Model, chosen: Settings, pictures: int, tile: int | None) -> "Painter":
        """It as a checkpoint takes it, encoded."""
        return Painter(self, model, chosen, tile)

    def finish(self, painted: Image.Image) -> Image.Image:
        """The picture with what was painted in its place; pixels outside the mask are the picture's own."""
        if self.mask is None:
            return painted
        box = self.box(*painted.size)
        weight = self.mask
        if self.blur:  # from one half at the edge, where nothing is painted yet, to one
            blurred = np.asarray(weight.filter(ImageFilter.GaussianBlur(self.blur)), np.float32)
            faded = np.where(np.asarray(weight) > 0, np.clip(2 * blurred - 255, 0, 255), 0)
            weight = Image.fromarray(faded.round().astype(np.uint8))
        whole = self.picture.copy()
        part = pictures.fitted(painted, (box[2] - box[0], box[3] - box[1]))
        whole.paste(part, box, weight.crop(box))
        return whole


def canvas(
    model: Model,
    image: Source | None,
    mask: Source | None = None,
    mask_blur: float = 0.0,
    only_masked: bool = False,
    padding: int | None = None,
    channels: bool = False,
) -> Canvas | None:
    """What was given, opened and checked; None without an image. InputError says what does not fit together.

    mask: white where to paint, grey from one half; "alpha" is where the image is transparent. It is scaled to the
    image, whose shape it must have. mask_blur: pixels. only_masked: paint the mask's surroundings alone, up to
    `padding` pixels away, at full resolution. channels: whether the UNet's further input is given in another way.
    """
    _check_task(model, image is not None, mask is not None, channels)
    if image is None:
        return None
    if mask is None and (mask_blur or only_masked or padding is not None):
        raise InputError("mask blur, only-masked and padding are about a mask; give --mask")
    if padding is not None and not only_masked:
        raise InputError("padding is of --only-masked; give both")
    if not 0 <= mask_blur < np.inf:
        raise InputError(f"mask blur must be a number of pixels from 0, not {mask_blur}")
    if padding is not None and padding < 0:
        raise InputError(f"padding must be a number of pixels from 0, not {padding}")
    picture = pictures.read(image)
    found = None if mask is None else _mask(picture, mask)
    around = (PADDING if padding is None else padding) if only_masked else None
    return Canvas(pictures.opaque(picture), found, mask_blur, around)


class Painter:
    """A canvas as one checkpoint takes it: encoded once, for any number of batches."""

    def __init__(self, canvas: Canvas, model: Model, chosen: Settings, tile: int | None):
        """Raises InputError for a mask too thin to be seen at that size."""
        self._vae, size = model.vae, (chosen.width, chosen.height)
        self._midway = canvas.midway(chosen)
        self._mask = self._picture = self._masked = None
        box = canvas.box(*size)
        pixels = pictures.to_pixels(pictures.fitted(canvas.picture.crop(box), size))
        shown = canvas.mask is not None and _extra(model) > 0
        if canvas.mask is not None:
            mask = mx.array(np.asarray(pictures.fitted(canvas.mask.crop(box), size)) > 127)[None, :, :, None]
            # Of each latent the first pixel decides, as in diffusers and in the training of nine channels.
            factor = model.vae.config.downsampling
            self._mask = mask[:, ::factor, ::factor].astype(mx.float32)
            if not self._mask.any().item():
                raise InputError("the mask is too thin to be seen in latents; make it wider, or use --only-masked")
            if shown:
                self._masked = posterior(model.vae, mx.where(mask, 0.0, pixels), tile)
        if self._midway or not shown:
            self._picture = posterior(model.vae, pixels, tile)

    def start(self, normal: Normal, noise: mx.array | None, places: Sequence[int]) -> Start:
        """Draws what a batch begins with by `normal()`, in diffusers' order: picture, noise unless given, masked."""
        image = None if self._picture is None else self._draw(*self._picture, normal)
        noise = normal() if noise is None else noise
        begin = image if self._midway else None
        if self._mask is not None and self._masked is not None:
            masked = self._draw(*self._masked, normal)
            mask = mx.broadcast_to(self._mask, (*masked.shape[:3], 1))
            return Start(noise, begin, channels=mx.concatenate([mask, masked], axis=-1))
        if self._mask is not None and image is not None:
            return Start(noise, begin, keep=partial(_kept, self._mask, image, noise))
        return Start(noise, begin)

    def _draw(self, mean: mx.array, deviation: mx.array, normal: Normal) -> mx.array:
        return self._vae.scale(mean + deviation * normal())


def posterior(vae: Autoencoder, pixels: mx.array, tile: int | None = None) -> tuple[mx.array, mx.array]:
    """Mean and deviation of the unscaled latents of pixels (1, H, W, 3), float32; Failure where they are not finite."""
    mean, log_variance = vae.encode(pixels.astype(vae.dtype), vae.tile(max(pixels.shape[1:3]), tile))
    mean, deviation = mean.astype(mx.float32), mx.exp(log_variance.astype(mx.float32) / 2)
    mx.eval(mean, deviation)
    if not mx.isfinite(mean).all().item():
        raise Failure("the encoded picture is not finite: the VAE overflows float16 (try --dtype float32)")
    return mean, deviation


def _mask(picture: Image.Image, mask: Source) -> Image.Image:
    """Of the picture's size, 0 or 255."""
    if mask == ALPHA:
        if picture.mode != "RGBA":
            raise InputError("the image is not transparent anywhere; give a mask of its own")
        found = ImageChops.invert(picture.getchannel("A"))
    else:
        found = pictures.opaque(pictures.read(mask), "black").convert("L")
        (w, h), (width, height) = found.size, picture.size
        if abs(w * height - h * width) > max(w, h, width, height):  # more than rounding to whole pixels does
            raise InputError(f"the mask is {w} x {h} and the image {width} x {height}; give one of the same shape")
        found = pictures.fitted(found, picture.size)
    found = found.point(lambda value: 255 if value > 127 else 0)
    values = np.asarray(found)
    if not values.any():
        raise InputError("the mask is black all over: nothing would be painted; make white what is to change")
    if values.all():
        raise InputError("the mask is white all over: nothing of the image would be kept; leave the image out")
    return found


def _kept(mask: mx.array, image: mx.array, noise: mx.array, x: mx.array, a: float, s: float) -> mx.array:
    """x where the mask is 1, else the image with the noise of level (a, s)."""
    return (1 - mask) * (a * image + s * noise) + mask * x


def _extra(model: Model) -> int:
    return model.unet.config.in_channels - model.vae.config.latent_channels


def _check_task(model: Model, image: bool, mask: bool, channels: bool) -> None:
    extra, paints = _extra(model), 1 + model.vae.config.latent_channels
    if mask and not image:
        raise InputError("a mask is of an image; give --init-image too")
    if image and channels:
        raise InputError("give an image or channels, not both")
    if extra == paints and not mask and not channels:
        raise InputError("this checkpoint paints into pictures; give --init-image and --mask")
    if image and extra not in (0, paints):
        does = _TASKS.get(extra, "is for something else")
        raise InputError(f"this checkpoint {does} ({extra} channels beside the latents) and takes no --init-image here")


def _grown(low: int, high: int, least: int, limit: int) -> tuple[int, int]:
    """A span grown around its middle to at least so long, as far as there is room from 0 to `limit`."""
    length = min(max(high - low, least), limit)
    low = min(max((low + high - length) // 2, 0), limit - length)
    return low, low + length
