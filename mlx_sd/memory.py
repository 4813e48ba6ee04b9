"""How much memory a picture will take, said before it is begun."""

import os
from math import floor, sqrt
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from .errors import InputError
from .load import Model

# The UNet's peak over its outermost activations: 55 to 73 measured on the embedded checkpoint, at 16 to 64 latents a
# side. It does not grow with their square: attention is fused on a GPU, and goes piece by piece on the CPU.
_ACTIVATIONS = 64


def needed(model: Model, width: int, height: int, batch: int = 1) -> int:
    """Bytes that the weights and guided evaluations of pictures of (width, height) take at their peak, roughly."""
    config, factor = model.unet.config, model.vae.config.factor
    outermost = 2 * batch * (width // factor) * (height // factor) * config.channels * model.dtype.size
    return _weights(model) + _ACTIVATIONS * outermost


def available() -> int:
    """Bytes that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check(model: Model, width: int, height: int, batch: int = 1) -> None:
    """InputError, with a size that would fit, where the UNet would need more memory than there is.

    The VAE is no reason: large pictures go through it in tiles.
    """
    if model.sizes:  # packages made for them
        return
    wanted, have = needed(model, width, height, batch), available()
    if wanted <= have:
        return
    weights, factor = _weights(model), model.vae.config.factor
    scale = sqrt(max(have - weights, 0) / (wanted - weights))
    fits = [floor(side * scale / factor) * factor for side in (width, height)]
    way = f"{fits[0]} x {fits[1]} would fit (--width, --height)" if all(fits) else "none of any size would fit"
    many = f" by {batch} at a time" if batch > 1 else ""
    raise InputError(
        f"pictures of {width} x {height}{many} need about {wanted / 2**30:.0f} GB of memory, and there are "
        f"{have / 2**30:.0f} GB; {way}"
    )


def _weights(model: Model) -> int:
    networks: tuple[nn.Module, ...] = (*model.text_encoders, model.unet, model.vae)
    flat: Any = [tree_flatten(network.parameters()) for network in networks]
    return sum(array.nbytes for arrays in flat for _, array in arrays)
