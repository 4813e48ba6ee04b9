"""An estimate of the memory that a picture needs, checked before any work."""

import os
import warnings
from collections.abc import Mapping
from math import ceil, floor, inf, sqrt
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .checkpoint.model import Model
from .checkpoint.model_folder import TEXT
from .core.errors import InputError
from .networks.family import Task

# The UNet's peak over its outermost activations: 55 to 73 measured on the embedded checkpoint, at 16 to 64 latents a
# side, and 50 to 56 on the x4 upscaler. It does not grow with their square: attention is fused on a GPU, and goes piece
# by piece on the CPU.
_UNET_FACTOR = 64
# The same of the VAE's decoder on the CPU, where convolutions unfold their input: 39 measured on the x4 upscaler's.
_DECODER_FACTOR = 40
_FULL = 0.75  # share of the memory that weights may fill without a word
BYTES_PER_PIXEL = 48  # float32 twice while tiles are joined, then clipped and rounded


def needed(
    model: Model,
    width: int,
    height: int,
    batch: int = 1,
    denoise_tile: int = 0,
    ranks: int = 1,
    low_memory: bool | None = None,
) -> int:
    """Estimates the peak in bytes of the weights and guided evaluations of pictures of (width, height) pixels.

    denoise_tile: latents a side that the UNet computes at once; 0 is the whole picture. ranks: that share the rows.
    low_memory: as of `load`; None is as the model was loaded.
    """
    low_memory = model.low_memory is not None if low_memory is None else low_memory
    config, factor = model.unet.config, model.vae.config.downsampling
    wide, high = (min(side // factor, denoise_tile or inf) for side in (width, height))
    rows = 1 if low_memory else ceil((3 if model.task is Task.INSTRUCTION else 2) / ranks)
    outermost = int(rows * batch * wide * high * config.channels * model.dtype.size)
    return _at_work(model, model.unet, low_memory) + _UNET_FACTOR * outermost


def decoding(model: Model, width: int, height: int, tile: int | None = None) -> int:
    """Estimates the peak in bytes of weights and decoding; tile: as `StableDiffusion.decode` takes it."""
    config, picture = model.vae.config, width * height * BYTES_PER_PIXEL
    resident = _at_work(model, model.vae, model.low_memory is not None)
    if mx.default_device() != mx.cpu:
        return resident + picture
    side = model.vae.tile(max(width, height), tile) or inf
    pixels = int(min(width, side) * min(height, side))
    return resident + picture + _DECODER_FACTOR * pixels * config.channels[0] * model.vae.dtype.size


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
    low_memory, factor = model.low_memory is not None, model.vae.config.downsampling
    resident = _at_work(model, model.unet, low_memory) + beside
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
    less = needed(model, width, height, batch, denoise_tile, low_memory=True) + beside
    if not low_memory and less <= present:
        offer = f"--low-memory needs about {less / 2**30:.1f} GB"
        remedy = f"{remedy}; {offer}" if all(fits) else offer
    at_once = f" by {batch} at a time" if batch > 1 else ""
    raise InputError(
        f"pictures of {width} x {height}{at_once} need about {required / 2**30:.0f} GB of memory, and there are "
        f"{present / 2**30:.0f} GB; {advice or remedy}"
    )


def weights(model: Model) -> int:
    """Returns the bytes of the weights of a model's networks."""
    return sum(map(size_of, (*model.text_encoders, model.unet, model.vae)))


def _at_work(model: Model, network: Any, low_memory: bool) -> int:
    """Returns the bytes of the weights that are in memory while a network of a model works."""
    if not low_memory:
        return weights(model)
    named = {"unet": model.unet, "vae": model.vae, **dict(zip(TEXT, model.text_encoders, strict=False))}
    released = model.low_memory.networks if model.low_memory else named.keys()
    return sum(size_of(other) for name, other in named.items() if other is network or name not in released)


def check_weights(name: str, networks: Mapping[str, nn.Module], dtype: mx.Dtype) -> None:
    """Warns where the weights of a model's networks, which are not loaded yet, fill the machine's memory."""
    sizes = [size_of(network, dtype) for network in networks.values()]
    if sum(sizes) > _FULL * available():
        warnings.warn(
            f"the networks of {name} take {sum(sizes) / 2**30:.1f} GB, and this machine has {available() / 2**30:.1f} "
            f"GB of memory; --low-memory keeps one at a time there, at most {max(sizes) / 2**30:.1f} GB",
            stacklevel=1,  # of this line, so that Python shows it once
        )


def size_of(network: Any, dtype: mx.Dtype | None = None) -> int:
    """Returns the bytes of a network's weights, as they are or in a dtype; what Core ML runs has none here."""
    flat: Any = tree_flatten(network.parameters()) if isinstance(network, nn.Module) else []
    codes = mx.uint32
    return sum(array.nbytes if dtype is None or array.dtype == codes else array.size * dtype.size for _, array in flat)
