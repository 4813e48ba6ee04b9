"""ControlNet (Zhang et al. 2023): a copy of the UNet's way down and middle that also sees a control image.

    picture ─▶ image ─┐                      (the same at every evaluation)
    x ─▶ stages[0] ───+──▶ stages[1] ─▶ ... ─▶ middle
                      │       │                  │
              skip_outputs[0] [1] ...      middle_output     1x1 convolutions that begin at zero
                      ▼       ▼                  ▼
                  residuals of the UNet's skips, and of its middle's output

The residuals are added to the UNet's skips where they are joined on the way up, and to the output of its middle. Under
DeepCache a cached evaluation reads the residuals of the outer skips alone, which need the first stages alone.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..core.errors import InputError
from . import ops
from .blocks import Conditioning, RunLayer, run_layer
from .control_config import ControlConfig
from .embeddings import UNetEmbedding
from .layers import Conv
from .unet import DownPath, Middle
from .union import Modes

_WEAKEST = 0.1  # what guess mode leaves of the first skip's residual


class Residuals(NamedTuple):
    """Arrays to be added to the outer skips of a UNet, from skip 0 on, and to its middle's output."""

    skips: list[mx.array]  # of the skips' shapes, or (B, 1, 1, C) where a network pools them
    middle: mx.array | None  # None where only the outer skips were asked for

    def __add__(self, other: "Residuals") -> "Residuals":  # type: ignore[override]  # the sum, not the two in a row
        """Returns the sum of the residuals of two networks, asked for at one depth."""
        skips = [a + b for a, b in zip(self.skips, other.skips, strict=True)]
        middle = None if self.middle is None or other.middle is None else self.middle + other.middle
        return Residuals(skips, middle)


class ImageEmbedding(nn.Module):
    """The layers that embed a control image, pixels (N, H, W, channels) -> features (N, H / 8, W / 8, outputs)."""

    def __init__(self, channels: int, widths: Sequence[int], outputs: int):
        super().__init__()
        self.first, self.last = Conv(channels, widths[0]), Conv(widths[-1], outputs)
        self.blocks: list[Conv] = []
        for width, following in pairwise(widths):
            self.blocks += [Conv(width, width), Conv(width, following, stride=2)]

    @property
    def names(self) -> dict[str, str]:
        """Returns the layers -> their names in a diffusers checkpoint."""
        blocks = {f"blocks.{i}": f"blocks.{i}" for i in range(len(self.blocks))}
        return {"first": "conv_in", **blocks, "last": "conv_out"}

    def __call__(self, image: mx.array) -> mx.array:
        """Returns the features of pixels in [0, 1]."""
        x = ops.silu(self.first(image))
        for layer in self.blocks:
            x = ops.silu(layer(x))
        return self.last(x)


class ControlNet(nn.Module):
    """A control network: latents, timestep, prompt and embedded control image -> residuals for a UNet."""

    def __init__(self, config: ControlConfig):
        super().__init__()
        self.config = config
        shared = config.unet
        self.image = ImageEmbedding(config.image_channels, config.embedding_channels, shared.channels)
        self.embedding, self.down, self.middle = UNetEmbedding(shared), DownPath(shared), Middle(shared)
        self.skip_outputs = [_zero_convolution(width) for width in shared.skip_channels]
        self.middle_output = _zero_convolution(shared.down[-1].channels)
        if config.modes:
            self.modes = Modes(config)

    @property
    def names(self) -> dict[str, str]:
        """Returns this network's layers -> their names in a diffusers checkpoint."""
        parts = {"embedding": self.embedding, "down": self.down, "middle": self.middle}
        names = {f"{part}.{layer}": name for part, module in parts.items() for layer, name in module.names.items()}
        names |= {f"image.{layer}": f"controlnet_cond_embedding.{name}" for layer, name in self.image.names.items()}
        if self.config.modes:
            names |= {f"modes.{layer}": name for layer, name in self.modes.names.items()}
        names |= {f"skip_outputs.{i}": f"controlnet_down_blocks.{i}" for i in range(len(self.skip_outputs))}
        return names | {"middle_output": "controlnet_mid_block"}

    @property
    def dtype(self) -> mx.Dtype:
        """Returns the dtype of the weights."""
        dtype: mx.Dtype = self.middle_output.weight.dtype
        return dtype

    def embed(self, image: mx.array, mode: int = 0, scale: float = 1.0) -> mx.array:
        """Returns the embedded control image (N, h, w, C) of pixels (N, H, W, channels) in [0, 1], RGB.

        It depends on neither latents nor timestep, so that one call serves all evaluations of a picture. mode: of a
        union, which kind of image it is. scale: of one image among several of a union, which sees their sum.
        """
        image = image.astype(self.dtype)
        if self.config.bgr:
            image = mx.concatenate([image[..., i : i + 1] for i in reversed(range(image.shape[-1]))], axis=-1)
        features = self.image(image)
        return self.modes.of_image(features, mode, scale) if self.config.modes else features

    def __call__(
        self,
        x: mx.array,
        t: mx.array,
        context: mx.array | None,
        image: mx.array,
        *,
        text_embeds: mx.array | None = None,
        time_ids: mx.array | None = None,
        class_labels: mx.array | None = None,
        scale: float = 1.0,
        guess: bool = False,
        depth: int | None = None,
        mode: int | tuple[int, ...] = 0,
        run: RunLayer = run_layer,
    ) -> Residuals:
        """Returns the residuals for latents x (B, h, w, C), the input of the UNet at this evaluation.

        t, context, text_embeds, time_ids, class_labels: as `UNet.__call__` takes them; the context is not read by a
        network without transformers. image: (1 or B, h, w, C) of `embed`. scale: factor of all residuals. guess: guess
        mode, in which residuals grow from a tenth at skip 0 to all at the middle (Zhang et al. 2023, sec. 3.5).
        depth: None is all residuals; a number those of the outer `depth` skips, from the first stages alone and equal
        to the others bit for bit, which is all that a UNet reads that is called with `deep` at this depth. mode: of a
        union, as for `embed`; several where the image is the sum of several. run: as of `UNet.__call__`.
        """
        x = x.astype(self.dtype)
        timesteps = mx.broadcast_to(t, (x.shape[0],))
        modes = (mode,) if isinstance(mode, int) else mode
        of_mode = self.modes.of_timestep(modes, x.dtype) if self.config.modes else None
        embedding = self.embedding(timesteps, x.dtype, text_embeds, time_ids, class_labels, mode=of_mode)
        if self.config.unet.takes_context and context is None:
            raise InputError("this ControlNet takes a context")
        conditioning = Conditioning(embedding, None if context is None else context.astype(x.dtype), run=run)
        first = self.down(x, conditioning, stop=1)[0] + image
        skips = [first, *self.down(first, conditioning, start=1, stop=depth)]
        scales = residual_scales(len(self.skip_outputs) + 1, scale, guess and not self.config.pools)
        residuals = [
            self._scaled(output(skip), factor)
            for output, skip, factor in zip(self.skip_outputs, skips, scales, strict=False)
        ]
        if depth is not None:
            return Residuals(residuals, None)
        return Residuals(residuals, self._scaled(self.middle_output(self.middle(skips[-1], conditioning)), scales[-1]))

    def _scaled(self, residual: mx.array, factor: float) -> mx.array:
        residual = residual if factor == 1 else residual * factor
        return ops.image_mean(residual) if self.config.pools else residual


def residual_scales(count: int, scale: float, guess: bool) -> list[float]:
    """Returns the factor of each of `count` residuals, the middle's last; guess: they grow from a tenth of it."""
    if not guess:
        return [scale] * count
    return [scale * _WEAKEST ** (1 - i / (count - 1)) for i in range(count)]


def _zero_convolution(width: int) -> Conv:
    layer = Conv(width, width, kernel=1)
    layer.update({"weight": mx.zeros_like(layer.weight), "bias": mx.zeros_like(layer.bias)})
    return layer
