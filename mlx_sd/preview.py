"""Denoised estimates as pictures without the decoder: a linear map from latents to colours, fitted once a model."""

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .checkpoint.model import Model
from .checkpoint.model_folder import VERSION
from .core.errors import Failure, InputError
from .core.files import atomic_file, read_json
from .networks.vae import Autoencoder
from .pipeline import StableDiffusion, to_image

Colours = NDArray[np.float64]  # (C + 1, 3): red, green and blue of each channel, and last of no latent at all

# Of the pictures that are fitted to: patches of random colours a side, half of each grey, as in the world
_PICTURES, _PATCHES, _GREY = 2, 8, 0.5
_LATENTS = 32  # a side of such a picture
_KEY = "preview"  # in model.json
_RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}


class Preview:
    """Shows denoised estimates, as `generate` gives them to its `callback`, at the cost of one small matmul.

    sd.generate(..., callback=lambda evaluation, evaluations, estimate: show(preview(estimate)))
    """

    def __init__(self, sd: StableDiffusion, enlarge: str | None = None):
        """enlarge: "nearest" or "bicubic", to the size of the decoded picture; None is a pixel for each latent.

        The first preview of a model folder fits its map, in seconds. Raises InputError for packages of Core ML
        without a VAE encoder.
        """
        if enlarge not in (None, *_RESAMPLING):
            raise InputError(f"a preview is enlarged by {' or '.join(_RESAMPLING)}, or None, not by {enlarge!r}")
        self._enlarge, self._factor = enlarge, sd.vae.config.downsampling
        self._colours = mx.array(colours(sd.model).astype(np.float32))

    def __call__(self, estimate: mx.array) -> list[Image.Image]:
        """One RGB picture for each of the latents (N, h, w, C)."""
        pixels = mx.clip(mx.addmm(self._colours[-1], estimate.astype(mx.float32), self._colours[:-1]), -1, 1)
        images = [to_image(rows) for rows in pixels]
        return [enlarged(image, self._factor, self._enlarge) for image in images] if self._enlarge else images


def enlarged(image: Image.Image, factor: int, how: str = "bicubic") -> Image.Image:
    """A preview in the size of the decoded picture, which has `factor` pixels a side for each of its own."""
    return image.resize((image.width * factor, image.height * factor), _RESAMPLING[how])


def colours(model: Model) -> Colours:
    """A model's map from latents, as the UNet has them, to RGB in [-1, 1]; kept in its folder's model.json.

    Where the folder cannot be written, or is of another version, it is fitted again each time.
    """
    if model.folder is None:
        return fit(model.vae, model.sizes[0] if model.sizes else None)
    file = model.folder / "model.json"
    about = read_json(file)
    if _KEY in about:
        return _checked(about[_KEY], model.vae.config.latent_channels, file)
    fitted: Colours = fit(model.vae).round(6)
    if about["version"] == VERSION:
        _store(file, about | {_KEY: fitted.tolist()})
    return fitted


def fit(vae: Autoencoder, size: tuple[int, int] | None = None) -> Colours:
    """The linear map that is nearest, in squares, to what a VAE decodes, from smooth pictures that it encodes itself.

    size: (width, height) of those pictures, for a VAE that takes no other. Always the same for the same weights.
    Raises Failure where the encoder gives no finite numbers.
    """
    factor, rng = vae.config.downsampling, np.random.default_rng(0)
    width, height = size or (_LATENTS * factor,) * 2
    latents, targets = [], []
    for _ in range(_PICTURES):  # one at a time: memory is that of one encoding
        pixels = _smooth_picture(rng, width, height)
        mean, _ = vae.encode(mx.array(pixels)[None].astype(vae.dtype))
        latents.append(np.array(vae.scale(mean.astype(mx.float32))[0], np.float64))
        targets.append(pixels.reshape(height // factor, factor, width // factor, factor, 3).mean((1, 3)))
    channels = latents[0].shape[-1]
    known = np.concatenate([z.reshape(-1, channels) for z in latents])
    if not np.isfinite(known).all():
        raise Failure("no preview: the encoder's latents are not finite (try --dtype float32)")
    known = np.concatenate([known, np.ones((len(known), 1))], axis=1)
    solution: Colours = np.linalg.lstsq(known, np.concatenate(targets).reshape(-1, 3), rcond=None)[0]
    return solution


def _smooth_picture(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    """(height, width, 3) in [-1, 1], of random colours that run into one another."""
    grey, colour = rng.random((_PATCHES, _PATCHES, 1)), rng.random((_PATCHES, _PATCHES, 3))
    patches = np.round(255 * (_GREY * grey + (1 - _GREY) * colour)).astype(np.uint8)
    image = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 127.5 - 1


def _checked(stored: Any, channels: int, file: Path) -> Colours:
    rows = stored if isinstance(stored, list) else []
    numbers = [number for row in rows if isinstance(row, list) and len(row) == 3 for number in row]
    sound = all(isinstance(number, float) and math.isfinite(number) for number in numbers)
    if not sound or len(rows) != channels + 1 or len(numbers) != 3 * len(rows):
        raise InputError(f"{file}: {_KEY!r} is not {channels + 1} rows of 3 numbers; remove it, and it is made again")
    return np.array(rows, np.float64)


def _store(file: Path, about: dict[str, Any]) -> None:
    try:
        with atomic_file(file) as f:
            f.write((json.dumps(about, indent=2) + "\n").encode())
    except OSError:  # a folder that others own is only read; the map is soon made again
        return
