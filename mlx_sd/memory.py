"""What making a picture larger takes, estimated before it begins."""

import os
from math import prod

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .errors import InputError
from .load import Model
from .settings import Settings

# Bytes per byte of the finest level's channels and per latent (UNet) or pixel (VAE), measured at full size on the CPU,
# where convolutions unfold their input; a GPU takes less.
_UNET, _DECODER = 60, 30
_PIXEL = 48  # bytes of a whole picture: float32 twice while tiles are joined, clipped and rounded
_LATENT = 16 * 10  # of latents, noise, estimates and blended predictions


def needed(model: Model, chosen: Settings, pictures: int, tile: int | None = None) -> int:
    """Bytes at the peak of making so many pictures at once; tile: of decoding, as `StableDiffusion.decode` takes it."""
    factor, size = model.vae.config.factor, model.dtype.size
    rows = pictures * (2 if chosen.guidance > 1 and model.text_encoders else 1)
    sides = (chosen.height // factor, chosen.width // factor)
    channels = model.unet.config.channels
    seen = prod(min(side, chosen.denoise_tile or side) for side in sides)
    unet = rows * seen * channels * size * _UNET
    if chosen.deepcache:  # what lies under the cut, of every tile
        unet += rows * prod(sides) * 2 * channels * size * (1 + chosen.deepcache.forecast)
    decoded = model.vae.tile(max(chosen.width, chosen.height), tile)
    seen = prod(min(side, decoded or side) for side in (chosen.height, chosen.width))
    decoder = seen * model.vae.config.channels[0] * model.vae.dtype.size * _DECODER
    decoder += chosen.width * chosen.height * _PIXEL
    return _weights(model) + pictures * prod(sides) * _LATENT + max(unet, decoder)


def check(model: Model, chosen: Settings, pictures: int, tile: int | None = None) -> None:
    """InputError where that is more than the machine has."""
    wanted, there = needed(model, chosen, pictures, tile), available()
    if there is not None and wanted > there:
        fewer = "a smaller --batch, " if pictures > 1 else ""
        raise InputError(
            f"{chosen.width} x {chosen.height} pixels would take about {wanted / 1e9:.3g} GB of memory, and there are "
            f"{there / 1e9:.3g}; give {fewer}a smaller --denoise-tile, --tile, or a smaller image"
        )


def available() -> int | None:
    """Bytes of memory of the machine, or None where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # Windows
        return None


def _weights(model: Model) -> int:
    flat: list[tuple[str, mx.array]] = []
    for network in (*model.text_encoders, model.unet, model.vae):
        if isinstance(network, nn.Module):
            tree_flatten(network.parameters(), destination=flat)
    return sum(array.nbytes for _, array in flat)
