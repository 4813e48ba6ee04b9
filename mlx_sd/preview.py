"""Denoised estimates as images without the decoder: a linear map from latents to colours, fitted once per model."""

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
from .codec import to_image
from .core.errors import Failure, InputError
from .core.files import atomic_file, read_json
from .networks.vae import Autoencoder
from .pipeline import StableDiffusion

ColourMap = NDArray[np.float64]  # (C + 1, 3): red, green and blue of each latent channel; the last row is the offset

# The images that the map is fitted to: so many, of so many patches a side, each patch half grey and half a colour.
_PICTURES, _PATCHES, _GREY = 2, 8, 0.5
_LATENTS = 32  # a side of such an image
_KEY = "preview"  # of the map in model.json
_RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}


class Preview:
    """Shows the denoised estimates of `generate`'s callback, at the cost of one small matrix product.

    sd.generate(..., callback=lambda evaluation, evaluations, estimate: show(preview(estimate)))
    """

    def __init__(self, sd: StableDiffusion, enlarge: str | None = None):
        """Reads or fits the map of the model; the first preview of a model folder takes seconds.

        enlarge: "nearest" or "bicubic", to the size of the decoded picture; None is a pixel for each latent. Raises
        InputError for Core ML packages without a VAE encoder.
        """
        if enlarge not in (None, *_RESAMPLING):
            raise InputError(f"a preview is enlarged by {' or '.join(_RESAMPLING)}, or None, not by {enlarge!r}")
        self._enlarge, self._factor = enlarge, sd.vae.config.downsampling
        self._colours = mx.array(colour_map(sd.model).astype(np.float32))

    def __call__(self, estimate: mx.array) -> list[Image.Image]:
        """Returns one RGB image for each of the latents (N, h, w, C)."""
        pixels = mx.clip(mx.addmm(self._colours[-1], estimate.astype(mx.float32), self._colours[:-1]), -1, 1)
        images = [to_image(rows) for rows in pixels]
        return [enlarged(image, self._factor, self._enlarge) for image in images] if self._enlarge else images


def enlarged(image: Image.Image, factor: int, resampling: str = "bicubic") -> Image.Image:
    """Returns a preview `factor` times as wide and as high: in the size of the decoded picture."""
    return image.resize((image.width * factor, image.height * factor), _RESAMPLING[resampling])


def colour_map(model: Model) -> ColourMap:
    """Returns a model's map from the UNet's latents to RGB in [-1, 1]; it is kept in the folder's model.json.

    Where the folder cannot be written, or is of another version, the map is fitted again each time.
    """
    if model.folder is None:
        return fit(model.vae, model.sizes[0] if model.sizes else None)
    file = model.folder / "model.json"
    about = read_json(file)
    if _KEY in about:
        return _checked(about[_KEY], model.vae.config.latent_channels, file)
    fitted: ColourMap = fit(model.vae).round(6)
    if about["version"] == VERSION:
        _store(file, about | {_KEY: fitted.tolist()})
    return fitted


def fit(vae: Autoencoder, size: tuple[int, int] | None = None) -> ColourMap:
    """Fits the linear map by least squares to smooth random images that the VAE encodes.

    size: (width, height) of the images, for a VAE that takes no other. The map is always the same for the same
    weights. Raises Failure where the encoder's latents are not finite.
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
    inputs = np.concatenate([z.reshape(-1, channels) for z in latents])
    if not np.isfinite(inputs).all():
        raise Failure("no preview: the encoder's latents are not finite (try --dtype float32)")
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    solution: ColourMap = np.linalg.lstsq(inputs, np.concatenate(targets).reshape(-1, 3), rcond=None)[0]
    return solution


def _smooth_picture(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    """Returns an image (height, width, 3) in [-1, 1] of random colours with smooth transitions."""
    grey, colour = rng.random((_PATCHES, _PATCHES, 1)), rng.random((_PATCHES, _PATCHES, 3))
    patches = np.round(255 * (_GREY * grey + (1 - _GREY) * colour)).astype(np.uint8)
    image = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 127.5 - 1


def _checked(stored: Any, channels: int, file: Path) -> ColourMap:
    rows = stored if isinstance(stored, list) else []
    numbers = [number for row in rows if isinstance(row, list) and len(row) == 3 for number in row]
    valid = all(isinstance(number, float) and math.isfinite(number) for number in numbers)
    if not valid or len(rows) != channels + 1 or len(numbers) != 3 * len(rows):
        raise InputError(f"{file}: {_KEY!r} is not {channels + 1} rows of 3 numbers; remove it, and it is made again")
    return np.array(rows, np.float64)


def _store(file: Path, about: dict[str, Any]) -> None:
    try:
        with atomic_file(file) as f:
            f.write((json.dumps(about, indent=2) + "\n").encode())
    except OSError:  # a folder that others own is read only; fitting the map again takes seconds
        return
