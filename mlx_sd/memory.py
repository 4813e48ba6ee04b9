"""How much memory a picture will take, said before it is begun."""

import os
from math import floor, inf, sqrt
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .checkpoint.model import Model
from .core.errors import InputError

# The UNet's peak over its outermost activations: 55 to 73 measured on the embedded checkpoint, at 16 to 64 latents a
# side, and 50 to 56 on the x4 upscaler. It does not grow with their square: attention is fused on a GPU, and goes piece
# by piece on the CPU.
_ACTIVATIONS = 64
# The same of the VAE's decoder on the CPU, where convolutions unfold their input: 39 measured on the x4 upscaler's.
_DECODED = 40
_PICTURE = 48  # bytes of a pixel: float32 twice while tiles are joined, then clipped and rounded


def needed(model: Model, width: int, height: int, batch: int = 1, denoise_tile: int = 0) -> int:
    """Bytes that the weights and guided evaluations of pictures of (width, height) take at their peak, roughly.

    denoise_tile: latents a side that the UNet is given at once; 0 is any number.
    """
    config, factor = model.unet.config, model.vae.config.downsampling
    wide, high = (min(side // factor, denoise_tile or inf) for side in (width, height))
    outermost = int(2 * batch * wide * high * config.channels * model.dtype.size)
    return _weights(model) + _ACTIVATIONS * outermost


def decoding(model: Model, width: int, height: int, tile: int | None = None) -> int:
    """Bytes that weights and decoding take, roughly; tile: as `StableDiffusion.decode` takes it."""
    config, whole = model.vae.config, width * height * _PICTURE
    if mx.default_device() != mx.cpu:
        return _weights(model) + whole
    side = model.vae.tile(max(width, height), tile) or inf
    seen = int(min(width, side) * min(height, side))
    return _weights(model) + whole + _DECODED * seen * config.channels[0] * model.vae.dtype.size


def available() -> int:
    """Bytes that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check(
    model: Model, width: int, height: int, batch: int = 1, denoise_tile: int = 0, tile: int | None = None
) -> None:
    """InputError, with a size that would fit or what makes it fit, where there is not as much memory as is needed.

    The VAE is a reason for upscalers alone: other large pictures go through it in tiles.
    """
    if model.sizes:  # packages made for them
        return
    wanted, have = needed(model, width, height, batch, denoise_tile), available()
    if model.upscales:
        wanted = max(wanted, decoding(model, width, height, tile))
    if wanted <= have:
        return
    weights, factor = _weights(model), model.vae.config.downsampling
    scale = sqrt(max(have - weights, 0) / (wanted - weights))
    fits = [floor(side * scale / factor) * factor for side in (width, height)]
    way = f"{fits[0]} x {fits[1]} would fit (--width, --height)" if all(fits) else "none of any size would fit"
    if model.upscales:
        way = "give a smaller image, or a smaller --denoise-tile or --tile"
    many = f" by {batch} at a time" if batch > 1 else ""
    raise InputError(
        f"pictures of {width} x {height}{many} need about {wanted / 2**30:.0f} GB of memory, and there are "
        f"{have / 2**30:.0f} GB; {way}"
    )


def _weights(model: Model) -> int:
    networks = (*model.text_encoders, model.unet, model.vae)
    flat: Any = [tree_flatten(network.parameters()) for network in networks if isinstance(network, nn.Module)]
    return sum(array.nbytes for arrays in flat for _, array in arrays)
