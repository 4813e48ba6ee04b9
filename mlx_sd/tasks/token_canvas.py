"""An image and a mask as a model of tokens takes them: the tokens of the image, and which of them are painted."""

import mlx.core as mx
import numpy as np

from ..checkpoint.model import Model
from ..core.errors import InputError
from ..discrete.corruption import Tokens
from ..discrete.samplers import Mask
from . import images, painting
from .start import StartingPoint

_HALF = 127  # grey up to here is black in a mask


def image_tokens(model: Model, start: StartingPoint, size: tuple[int, int], tile: int | None) -> Tokens | None:
    """Returns the tokens (N,) of the image that a picture of (width, height) begins with; None without an image.

    tile: as `StableDiffusion.encode` takes it.
    """
    if not isinstance(start, painting.Canvas):
        return None
    model.work("vae")
    pixels = images.to_pixels(images.fitted(start.image.crop(start.box(*size)), size))
    mean, _ = painting.posterior(model.vae, pixels, tile)
    return np.array(model.vae.tokens(mean), dtype=np.int64).reshape(-1)


def painted_tokens(model: Model, start: StartingPoint, size: tuple[int, int]) -> Mask | None:
    """Returns which tokens (N,) of a picture of (width, height) a mask reaches into; None without a mask.

    InputError for a mask that is too thin to be seen at that size.
    """
    if not isinstance(start, painting.Canvas) or start.mask is None:
        return None
    (width, height), factor = size, model.vae.config.downsampling
    mask = np.asarray(images.fitted(start.mask.crop(start.box(*size)), size)) > _HALF
    cells: Mask = mask.reshape(height // factor, factor, width // factor, factor).any(axis=(1, 3)).reshape(-1)
    if not cells.any():
        raise InputError("the mask is too thin to be seen in tokens; make it wider, or use --only-masked")
    return cells


def latents_of(model: Model, tokens: Tokens) -> mx.array:
    """Returns latents (B, h, w, C), scaled as those of all models, of tokens (B, h, w).

    A token that is masked still has the mean of the codebook.
    """
    codes = model.vae.codebook.weight.astype(mx.float32)
    table = mx.concatenate([codes, mx.mean(codes, axis=0, keepdims=True)])
    return model.vae.scale(table[mx.array(tokens.astype(np.int32))])
