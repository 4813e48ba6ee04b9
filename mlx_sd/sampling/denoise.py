"""What the network says -> an estimate of the clean image, and guidance."""

import math

import mlx.core as mx

from .table import Clip


def denoised(prediction: str, x: mx.array, output: mx.array, a: float, s: float) -> mx.array:
    """The clean image that `output` implies for x = a * image + s * noise.

    prediction: "epsilon" (noise), "v_prediction" (a * noise - s * image, Salimans and Ho 2022), "edm" (the negative of
    that, Karras et al. 2022, table 1) or "sample".
    """
    if prediction == "epsilon":
        return (x - s * output) / a
    if prediction in ("v_prediction", "edm"):
        return a * x - s * (output if prediction == "v_prediction" else -output)
    return output


def noise_in(prediction: str, x: mx.array, output: mx.array, a: float, s: float) -> mx.array:
    """The noise that `output` implies for x = a * image + s * noise; kinds of prediction as in `denoised`."""
    if prediction == "epsilon":
        return output
    if prediction in ("v_prediction", "edm"):
        return s * x + a * (output if prediction == "v_prediction" else -output)
    return (x - a * output) / s


def clipped(image: mx.array, clip: Clip) -> mx.array:
    """Estimates (N, h, w, C) kept to the images' range, each by itself."""
    if clip.quantile is None:
        return mx.clip(image, -clip.limit, clip.limit)
    values = mx.sort(mx.abs(image).reshape(image.shape[0], -1), axis=1)
    place = clip.quantile * (values.shape[1] - 1)
    low = math.floor(place)
    high = min(low + 1, values.shape[1] - 1)
    found = values[:, low] + (place - low) * (values[:, high] - values[:, low])
    limit = mx.clip(found, 1, clip.limit)[:, None, None, None]
    return mx.clip(image, -limit, limit) / limit


def guide(output: mx.array, scale: float, rescale: float = 0.0) -> mx.array:
    """Classifier-free guidance u + scale (c - u) of a batch whose first half is unconditional.

    `rescale` mixes in the result brought to the conditional half's deviation (Lin et al. 2023, eq. 15 and 16).
    """
    uncond, cond = mx.split(output, 2)
    guided = uncond + scale * (cond - uncond)
    if not rescale:
        return guided
    axes = tuple(range(1, cond.ndim))
    ratio = mx.std(cond, axis=axes, keepdims=True, ddof=1) / mx.std(guided, axis=axes, keepdims=True, ddof=1)
    return guided * (rescale * ratio + (1 - rescale))
