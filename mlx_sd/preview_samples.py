"""What a preview is fitted to: latents of random pictures, and estimates that the model itself has on the way."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .core.errors import Failure, InputError
from .networks.family import Task
from .pipeline import StableDiffusion
from .tasks.images import to_pixels

_PICTURES, _SHAPES, _PATCHES = 12, 8, 8  # pictures; shapes in each; patches a side of the ground behind them
_SIDE = 24  # latents a side that are encoded or decoded at once
_STEPS, _INTERVAL = 8, 3  # of the model's own pictures, and of their DeepCache
# Evaluations whose estimates are taken: with guidance, by which the first are far from pictures, and without.
_SEEN, _SEEN_UNGUIDED = (1, 2, 8), (8,)
_PROMPTS = (
    "a red house on green grass under a clear blue sky",
    "a house on white snow, under a night sky",
    "yellow sand and a bright sun",
    "white snow and dark trees under grey clouds",
    "a portrait of a person",
    "a colourful painting",
    "orange flowers and a violet evening sky",
    "a boat on blue water",
    "green hills and mountains behind, a sunny day",
    "a dark street in the rain",
    "a white wall and a wooden table",
    "a black cat on a red sofa",
    "autumn leaves on brown ground, a storm",
    "pink and purple clouds at sunset",
    "a yellow car before a brick house",
    "rocks and stars",
)


def latents(sd: StableDiffusion, check: Callable[[], None] = lambda: None) -> Iterator[mx.array]:
    """Yields latents (1, h, w, C) as the UNet has them: of random pictures, then of a model's own estimates.

    The model makes a few pictures in few steps with DeepCache, half of them without guidance. One that cannot (networks
    that are not there, tasks that need more than an image and a mask) is left with the random pictures. check: called
    after each evaluation; what it raises ends the work.
    """
    rng, factor = np.random.default_rng(0), sd.vae.config.downsampling
    width, height = _size(sd)
    encoded = (width, height) if sd.model.sizes else tuple(min(side, _SIDE * factor) for side in (width, height))
    for _ in range(_PICTURES):
        mean, _ = sd.vae.encode(to_pixels(picture(rng, *encoded)).astype(sd.vae.dtype))
        yield sd.vae.scale(mean.astype(mx.float32))
    for guided in (True, False):
        try:
            yield from _estimates(sd, rng, (width, height), guided, check)
        except (InputError, Failure):
            return


def picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Returns a random picture, mode RGB: shapes with sharp edges before a ground of smooth transitions."""
    grey, colour = rng.random((_PATCHES, _PATCHES, 1)), rng.random((_PATCHES, _PATCHES, 3))
    exposure = rng.random() ** 2  # a night is dark everywhere
    patches = np.round(255 * exposure * (grey + colour) / 2).astype(np.uint8)
    image = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for number in range(_SHAPES):
        left, right = np.sort(rng.integers(0, width, 2)).tolist()
        top, bottom = np.sort(rng.integers(0, height, 2)).tolist()
        fill = tuple(rng.integers(0, 256, 3).tolist())
        if number % 3 == 0:
            draw.rectangle((left, top, right, bottom), fill=fill)
        elif number % 3 == 1:
            draw.ellipse((left, top, right, bottom), fill=fill)
        else:
            draw.polygon([(left, bottom), ((left + right) // 2, top), (right, bottom)], fill=fill)
    return image


def _size(sd: StableDiffusion) -> tuple[int, int]:
    """Returns (width, height) in pixels of the model's own pictures: small, for large checkpoints half their size."""
    if sd.model.sizes:
        return sd.model.sizes[0]
    side = sd.unet.config.sample_size
    side = side if side <= _SIDE else max(_SIDE, side // 2)
    return (side * sd.vae.config.downsampling,) * 2


def _estimates(
    sd: StableDiffusion, rng: np.random.Generator, size: tuple[int, int], guided: bool, check: Callable[[], None]
) -> Iterator[mx.array]:
    """Yields estimates of half of the subjects."""
    model, estimates = sd.model, []
    settings: dict[str, Any] = {"steps": _STEPS, "output": "latent", "seed": 0 if guided else 1}
    half, numbers = len(_PROMPTS) // 2, _SEEN if guided else _SEEN_UNGUIDED
    if model.text_encoders:
        settings["prompt"] = _PROMPTS[:half] if guided else _PROMPTS[half:]
    elif model.classes:
        settings["classes"] = rng.integers(0, model.classes.rows, half).tolist()
    else:
        settings["count"] = half
    if not guided and (model.text_encoders or model.classes):
        settings["guidance"] = 1.0
    if model.task is Task.UPSCALING:
        settings["image"] = picture(rng, _SIDE, _SIDE)
    elif model.task is Task.INPAINTING:
        settings["image"], settings["mask"] = picture(rng, *size), _half_mask(*size)
    elif model.task is Task.INSTRUCTION:
        settings["image"] = picture(rng, *size)
    else:
        settings["width"], settings["height"] = size
    if model.folder is not None:  # of Core ML packages not every set has the pair that DeepCache needs
        settings["deepcache"] = _INTERVAL

    def collect(evaluation: int, evaluations: int, denoised: mx.array) -> None:
        """Keeps some of the estimates, cut to the size that is decoded at once."""
        check()
        if evaluation in numbers:
            estimates.append(denoised if model.sizes else denoised[:, :_SIDE, :_SIDE])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few steps are not what one would choose
        sd.generate(**settings, callback=collect)
    for estimate in estimates:
        yield from mx.split(estimate, estimate.shape[0])


def _half_mask(width: int, height: int) -> Image.Image:
    mask: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return Image.fromarray(mask)
