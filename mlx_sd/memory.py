"""An estimate of the memory that a picture needs, checked before any work."""

import os
from math import ceil, floor, inf, sqrt
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .checkpoint.model import Model
from .core.errors import InputError
from .networks.family import Task

# The UNet's peak over its outermost activations: 55 to 73 measured on the embedded checkpoint, at 16 to 64 latents a
# side, and 50 to 56 on the x4 upscaler. It does not grow with their square: attention is fused on a GPU, and goes piece
# by piece on the CPU.
_UNET_FACTOR = 64
# The same of the VAE's decoder on the CPU, where convolutions unfold their input: 39 measured on the x4 upscaler's.
_DECODER_FACTOR = 40
_BYTES_PER_PIXEL = 48  # float32 twice while tiles are joined, then clipped and rounded


def needed(model: Model, width: int, height: int, batch: int = 1, denoise_tile: int = 0, ranks: int = 1) -> int:
    """Estimates the peak in bytes of the weights and guided evaluations of pictures of (width, height) pixels.

    denoise_tile: latents a side that the UNet computes at once; 0 is the whole picture. ranks: that share the rows.
    """
    config, factor = model.unet.config, model.vae.config.downsampling
    wide, high = (min(side // factor, denoise_tile or inf) for side in (width, height))
    rows = ceil((3 if model.task is Task.INSTRUCTION else 2) / ranks)
    outermost = int(rows * batch * wide * high * config.channels * model.dtype.size)
    return weights(model) + _UNET_FACTOR * outermost


def decoding(model: Model, width: int, height: int, tile: int | None = None) -> int:
    """Estimates the peak in bytes of weights and decoding; tile: as `StableDiffusion.decode` takes it."""
    config, picture = model.vae.config, width * height * _BYTES_PER_PIXEL
    if mx.default_device() != mx.cpu:
        return weights(model) + picture
    side = model.vae.tile(max(width, height), tile) or inf
    pixels = int(min(width, side) * min(height, side))
    return weights(model) + picture + _DECODER_FACTOR * pixels * config.channels[0] * model.vae.dtype.size


def available() -> int:
    """Returns the bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check(
    model: Model,
    width: int,
    height: int,
    batch: int = 1,
    denoise_tile: int = 0,
    tile: int | None = None,
    beside: int = 0,
    advice: str | None = None,
    ranks: int = 1,
) -> None:
    """Raises InputError where the machine has too little memory; the error names a size or an option that would fit.

    beside: bytes of the weights of networks beside the model's, as control networks. advice: what the error says in
    place of that size. ranks: that share the rows of each evaluation. Decoding counts for upscalers alone: other large
    pictures go through the VAE in tiles.
    """
    if model.sizes:  # Core ML packages, exported for these sizes
        return
    required, present = needed(model, width, height, batch, denoise_tile, ranks) + beside, available()
    if model.upscales:
        required = max(required, decoding(model, width, height, tile))
    if required <= present:
        return
    resident, factor = weights(model) + beside, model.vae.config.downsampling
    scale = sqrt(max(present - resident, 0) / (required - resident))
    fits = [floor(side * scale / factor) * factor for side in (width, height)]
    remedy = f"{fits[0]} x {fits[1]} would fit (--width, --height)" if all(fits) else "none of any size would fit"
    if model.upscales:
        remedy = "give a smaller image, or a smaller --denoise-tile or --tile"
    if beside and not all(fits):
        remedy = (
            f"the networks beside the checkpoint (--control, --adapter, --ip-adapter) take {beside / 2**30:.0f} GB; "
            "leave some of them out"
        )
    at_once = f" by {batch} at a time" if batch > 1 else ""
    raise InputError(
        f"pictures of {width} x {height}{at_once} need about {required / 2**30:.0f} GB of memory, and there are "
        f"{present / 2**30:.0f} GB; {advice or remedy}"
    )


def weights(model: Model) -> int:
    """Returns the bytes of the weights of a model's networks."""
    networks = (*model.text_encoders, model.unet, model.vae)
    flat: Any = [tree_flatten(network.parameters()) for network in networks if isinstance(network, nn.Module)]
    return sum(array.nbytes for arrays in flat for _, array in arrays)
