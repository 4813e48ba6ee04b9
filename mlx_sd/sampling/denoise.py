"""From the network's output to an estimate of the clean image or of the noise, and guidance."""

import math
from collections.abc import Sequence

import mlx.core as mx

from .steps import Level
from .table import Clip


def estimate_image(prediction_type: str, x: mx.array, output: mx.array, level: Level) -> mx.array:
    """Returns the clean image that `output` implies for latents x (N, h, w, C) of a level.

    prediction_type: "epsilon" (the noise), "v_prediction" (signal * noise - noise scale * image, Salimans and Ho 2022),
    "edm" (the negative of that, Karras et al. 2022, table 1) or "sample" (the image).
    """
    signal, noise = level
    if prediction_type == "epsilon":
        return (x - noise * output) / signal
    if prediction_type in ("v_prediction", "edm"):
        return signal * x - noise * (output if prediction_type == "v_prediction" else -output)
    return output


def estimate_noise(prediction_type: str, x: mx.array, output: mx.array, level: Level) -> mx.array:
    """Returns the unit noise that `output` implies for latents x of a level; types as in `estimate_image`."""
    signal, noise = level
    if prediction_type == "epsilon":
        return output
    if prediction_type in ("v_prediction", "edm"):
        return noise * x + signal * (output if prediction_type == "v_prediction" else -output)
    return (x - signal * output) / noise


def clip_image(image: mx.array, clip: Clip) -> mx.array:
    """Returns estimates (N, h, w, C) limited to the images' range, each picture by itself."""
    if clip.quantile is None:
        return mx.clip(image, -clip.limit, clip.limit)
    values = mx.sort(mx.abs(image).reshape(image.shape[0], -1), axis=1)
    index = clip.quantile * (values.shape[1] - 1)  # between two of the sorted values
    low = math.floor(index)
    high = min(low + 1, values.shape[1] - 1)
    quantile = values[:, low] + (index - low) * (values[:, high] - values[:, low])
    limit = mx.clip(quantile, 1, clip.limit)[:, None, None, None]
    return mx.clip(image, -limit, limit) / limit


def guide(
    output: mx.array,
    scale: float,
    rescale: float = 0.0,
    weights: Sequence[float] = (1.0,),
    away: mx.array | None = None,
) -> mx.array:
    """Returns classifier-free guidance u + scale (c - u) of a batch (N + K N, ...) whose first N are unconditional.

    weights: of the K conditions of each picture, c = u + sum_k weight_k (c_k - u) (Liu et al. 2022, eq. 11). away: is
    added, (N, ...). `rescale` mixes in the result scaled to the conditional prediction's standard deviation (Lin et al.
    2023, eq. 15 and 16).
    """
    uncond, *conditional = mx.split(output, 1 + len(weights))
    cond = conditional[0]
    if len(weights) > 1 or weights[0] != 1:
        cond = uncond + sum(weight * (c - uncond) for weight, c in zip(weights, conditional, strict=True))
    guided = uncond + scale * (cond - uncond)
    if away is not None:
        guided = guided + away
    if not rescale:
        return guided
    axes = tuple(range(1, cond.ndim))
    ratio = mx.std(cond, axis=axes, keepdims=True, ddof=1) / mx.std(guided, axis=axes, keepdims=True, ddof=1)
    return guided * (rescale * ratio + (1 - rescale))
