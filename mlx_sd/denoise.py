"""What the network says -> an estimate of the clean image; guidance and reuse around the network."""

import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from .reuse import Reuse
from .table import Clip
from .unet import Deep, Join, UNet, concatenate


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


def guidance_embedding(scale: float, dims: int) -> mx.array:
    """(1, dims) sinusoids of 1000 (scale - 1), as latent consistency models take it (Luo et al. 2023)."""
    half = dims // 2
    rates = mx.exp(-math.log(10000) * mx.arange(half, dtype=mx.float32) / (half - 1))
    angles = 1000 * (scale - 1) * rates[None]
    return mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1)


class Predictor:
    """The network as the sampling loop sees it, for one generation: its conditions, guidance and reuse inside."""

    def __init__(
        self,
        unet: UNet,
        context: mx.array | None,
        extra: Mapping[str, Any],
        channels: mx.array | None,
        guidance: float | None,
        rescale: float,
        reuse: Reuse,
        join: Join = concatenate,
    ):
        """context (B, tokens, C) and `extra` (the UNet's keywords) hold the unconditional half first.

        Models without a prompt have no context. `guidance` is None where there is no such half. channels: (1 or N, h,
        w, K) beside the latents, or None.
        """
        self._unet, self._context, self._extra, self._channels = unet, context, extra, channels
        self._guidance, self._rescale = guidance, rescale
        self.reuse, self._join = reuse, join

    def __call__(self, x: mx.array, t: float) -> mx.array:
        """The (guided) prediction, float32, for latents x (N, h, w, C) at timestep t."""
        if self._channels is not None:
            beside = mx.broadcast_to(self._channels, (x.shape[0], *self._channels.shape[1:]))
            x = mx.concatenate([x, beside], axis=-1)
        if self._guidance is not None:
            x = mx.concatenate([x, x])
        x = x.astype(self._unet.dtype)

        def network(deep: Deep, depth: int) -> tuple[mx.array, mx.array]:
            time, context = mx.array(t), self._context
            return self._unet(x, time, context, **self._extra, deep=deep, depth=depth, join=self._join)

        output = self.reuse(network).astype(mx.float32)
        return output if self._guidance is None else guide(output, self._guidance, self._rescale)
