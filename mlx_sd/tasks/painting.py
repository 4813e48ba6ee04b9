"""Pictures made from images: image to image, and painting into the masked part of one.

A checkpoint for inpainting (nine input channels) is shown the mask and what is kept beside the latents. Any other is
led: after each step the kept part of the latents is put back, with the noise of the level they are then at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np
from PIL import Image, ImageChops, ImageFilter

from ..checkpoint.model import Model
from ..core.errors import Failure, InputError
from ..networks.family import Task
from ..networks.vae import Autoencoder
from . import images
from .images import ImageSource
from .start import DrawNoise, Start

ALPHA = "alpha"  # as a mask: the transparent part of the image is painted
_HALF = 127  # grey up to here is black in a mask

Box = tuple[int, int, int, int]  # left, top, right, bottom
Moments = tuple[mx.array, mx.array]  # mean and deviation of a posterior


@dataclass(frozen=True)
class Canvas:
    """An image to begin with, and which part of it is to be painted."""

    image: Image.Image  # RGB
    mask: Image.Image | None = None  # L of the image's size, 255 where to paint, else 0; None is everywhere
    blur: float = 0.0  # pixels over which the painted part fades in, from the mask's edge inwards
    padding: int | None = None  # pixels around the mask that are painted alone; None paints the whole image
    transparency: Image.Image | None = None  # L, of the mask "alpha": how far the painted part shows through a pixel

    def size(self, model: Model, width: int | None, height: int | None) -> tuple[int | None, int | None]:
        """Returns the size to paint at: the requested one, else the image's, in whole latents.

        Of a part of an image it stays None where it is not requested: the checkpoint's own size.
        """
        if self.padding is not None or (width is not None and height is not None):
            return width, height
        image_width, image_height = self.image.size
        scale = width / image_width if width is not None else height / image_height if height is not None else 1
        near = images.nearest((image_width * scale, image_height * scale), model.vae.config.downsampling)
        return near[0] if width is None else width, near[1] if height is None else height

    def strength(self, strength: float | None, default: float) -> float | None:
        """Returns the strength, or the default; with a mask that is 1, for everything under it is new."""
        if strength is not None:
            return strength
        return default if self.mask is None else 1.0

    def begins_midway(self, strength: float | None) -> bool:
        """Returns True unless everything under a mask is new."""
        return self.mask is None or strength != 1

    def box(self, width: int, height: int) -> Box:
        """Returns the part that is painted at (width, height): as near to that shape as the image allows."""
        if self.padding is None or self.mask is None:
            return (0, 0, *self.image.size)
        left, top, right, bottom = self.mask.getbbox() or (0, 0, *self.image.size)
        image_width, image_height = self.image.size
        left, top = max(left - self.padding, 0), max(top - self.padding, 0)
        right, bottom = min(right + self.padding, image_width), min(bottom + self.padding, image_height)
        wide, high = round((bottom - top) * width / height), round((right - left) * height / width)
        left, right = _grown(left, right, wide, image_width)
        top, bottom = _grown(top, bottom, high, image_height)
        return left, top, right, bottom

    def prepare(
        self, model: Model, width: int, height: int, strength: float | None, count: int, tile: int | None
    ) -> "Painter":
        """Encodes the image for painting at (width, height)."""
        return Painter(self, model, (width, height), self.begins_midway(strength), tile)

    def finish(self, image: Image.Image) -> Image.Image:
        """Returns the canvas with the painted part in its place; pixels outside the mask are the original's.

        With the mask "alpha", what is painted lies under the image and shows through its half transparent edges.
        """
        if self.mask is None:
            return image
        box = self.box(*image.size)
        weight = self.mask if self.blur or self.transparency is None else self.transparency
        if self.blur:
            weight = _faded(weight, self.blur)
        finished = self.image.copy()
        part = images.fitted(image, (box[2] - box[0], box[3] - box[1]))
        finished.paste(part, box, weight.crop(box))
        return finished


def canvas(
    model: Model,
    image: ImageSource | None,
    mask: ImageSource | None = None,
    mask_blur: float = 0.0,
    padding: int | None = None,
    channels: bool = False,
) -> Canvas | None:
    """Opens and checks image and mask; returns None without an image.

    mask: white where to paint, grey from one half. It is scaled to the image, whose shape it must have. "alpha" is
    where the image is transparent; whatever colour lies hidden there counts for nothing. mask_blur: pixels. padding:
    paint the mask's surroundings alone, up to so many pixels away, at full resolution; None paints the whole image.
    channels: whether the UNet's additional input is an argument of its own. Raises InputError where these do not fit
    together or not the checkpoint.
    """
    _check_task(model, image is not None, mask is not None, channels)
    if image is None:
        return None
    opened = images.read(image)
    opened_mask = None if mask is None else _mask(opened, mask)
    if opened_mask is not None and mask_blur and not _faded(opened_mask, mask_blur).getbbox():
        raise InputError(f"a mask blur of {mask_blur:g} is too wide for this mask: nothing would be left to paint")
    if mask == ALPHA:
        transparency = ImageChops.invert(opened.getchannel("A"))
        return Canvas(images.inpainted(opened), opened_mask, mask_blur, padding, transparency)
    return Canvas(images.opaque(opened), opened_mask, mask_blur, padding)


class Painter:
    """A canvas as one checkpoint takes it: encoded once, for any number of batches."""

    def __init__(self, canvas: Canvas, model: Model, size: tuple[int, int], midway: bool, tile: int | None):
        """Encodes the canvas at (width, height); InputError for a mask that is too thin to be seen at that size."""
        self._vae, self._midway = model.vae, midway
        self._mask: mx.array | None = None
        self._image: Moments | None = None
        self._masked: Moments | None = None
        box = canvas.box(*size)
        pixels = images.to_pixels(images.fitted(canvas.image.crop(box), size))
        shown = canvas.mask is not None and model.task is Task.INPAINTING
        if canvas.mask is not None:
            mask = mx.array(np.asarray(images.fitted(canvas.mask.crop(box), size)) > 127)[None, :, :, None]
            # Of each latent the first pixel decides, as in diffusers and in the training of nine channels.
            factor = model.vae.config.downsampling
            self._mask = mask[:, ::factor, ::factor].astype(mx.float32)
            if not self._mask.any().item():
                raise InputError("the mask is too thin to be seen in latents; make it wider, or use --only-masked")
            if shown:
                self._masked = posterior(model.vae, mx.where(mask, 0.0, pixels), tile)
        if midway or not shown:
            self._image = posterior(model.vae, pixels, tile)

    def start(self, draw_noise: DrawNoise, noise: mx.array | None, indices: Sequence[int]) -> Start:
        """Draws by `draw_noise()` in diffusers' order: image, noise unless it is an argument, masked image."""
        latents = None if self._image is None else self._draw(*self._image, draw_noise)
        noise = draw_noise() if noise is None else noise
        begin = latents if self._midway else None
        if self._mask is not None and self._masked is not None:
            masked = self._draw(*self._masked, draw_noise)
            mask = mx.broadcast_to(self._mask, (*masked.shape[:3], 1))
            return Start(noise, begin, channels=mx.concatenate([mask, masked], axis=-1))
        if self._mask is not None and latents is not None:
            return Start(noise, begin, keep=partial(_keep_unmasked, self._mask, latents, noise))
        return Start(noise, begin)

    def _draw(self, mean: mx.array, deviation: mx.array, draw_noise: DrawNoise) -> mx.array:
        if self._vae.config.deterministic:  # then diffusers draws no noise either
            return self._vae.scale(mean)
        return self._vae.scale(mean + deviation * draw_noise())


def posterior(vae: Autoencoder, pixels: mx.array, tile: int | None = None) -> Moments:
    """Returns mean and deviation, float32, of the unscaled latents of pixels (1, H, W, 3).

    tile: pixels a side, as `StableDiffusion.encode` takes it. Raises Failure where they are not finite.
    """
    mean, log_variance = vae.encode(pixels.astype(vae.dtype), vae.tile(max(pixels.shape[1:3]), tile))
    mean, deviation = mean.astype(mx.float32), mx.exp(log_variance.astype(mx.float32) / 2)
    mx.eval(mean, deviation)
    if not mx.isfinite(mean).all().item():
        raise Failure("the encoded picture is not finite: the VAE overflows float16 (try --dtype float32)")
    return mean, deviation


def _mask(image: Image.Image, mask: ImageSource) -> Image.Image:
    """Returns a mask of the image's size, 0 or 255."""
    if mask == ALPHA:
        if image.mode != "RGBA":
            raise InputError("the image is not transparent anywhere; give a mask of its own")
        opened = ImageChops.invert(image.getchannel("A"))
    else:
        opened = images.opaque(images.read(mask), "black").convert("L")
        (w, h), (width, height) = opened.size, image.size
        if abs(w * height - h * width) > max(w, h, width, height):  # more than rounding to whole pixels does
            raise InputError(f"the mask is {w} x {h} and the image {width} x {height}; give one of the same shape")
        opened = images.fitted(opened, image.size)
    shades = np.asarray(opened)
    darkest, brightest = int(shades.min()), int(shades.max())
    if brightest <= _HALF:
        if mask == ALPHA:
            raise InputError("the image is not transparent anywhere; give a mask of its own")
        shade = "darker than half grey" if brightest else "black"
        raise InputError(f"the mask is {shade} all over: nothing would be painted; make white what is to change")
    if darkest > _HALF:
        if mask == ALPHA:
            raise InputError("the image is transparent all over: nothing of it would be kept; leave the image out")
        shade = "white" if darkest == 255 else "brighter than half grey"
        raise InputError(f"the mask is {shade} all over: nothing of the image would be kept; leave the image out")
    return opened.point(lambda value: 255 if value > _HALF else 0)


def _faded(mask: Image.Image, blur: float) -> Image.Image:
    """Returns a mask that fades in from its edge inwards over `blur` pixels."""
    blurred = np.asarray(mask.filter(ImageFilter.GaussianBlur(blur)), np.float32)  # one half at the edge
    faded = np.where(np.asarray(mask) > 0, np.clip(2 * blurred - 255, 0, 255), 0)
    return Image.fromarray(faded.round().astype(np.uint8))


def _keep_unmasked(
    mask: mx.array, image: mx.array, noise: mx.array, latents: mx.array, signal: float, deviation: float
) -> mx.array:
    """Returns the latents where the mask is 1, else signal * image + deviation * noise."""
    return (1 - mask) * (signal * image + deviation * noise) + mask * latents


def _check_task(model: Model, image: bool, mask: bool, channels: bool) -> None:
    if mask and not image:
        raise InputError("a mask is of an image; give --init-image too")
    if image and channels:
        raise InputError("give an image or channels, not both")
    if model.task is Task.INPAINTING and not mask and not channels:
        raise InputError("this checkpoint paints into pictures; give --init-image and --mask")
    if image and model.task not in (Task.GENERATION, Task.INPAINTING):
        raise InputError(f"this checkpoint {model.task.value} and takes no --init-image here")


def _grown(low: int, high: int, least: int, limit: int) -> tuple[int, int]:
    """Returns a span grown around its middle to at least so long, as far as there is room from 0 to `limit`."""
    length = min(max(high - low, least), limit)
    low = min(max((low + high - length) // 2, 0), limit - length)
    return low, low + length
