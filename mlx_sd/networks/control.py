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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..core.config_fields import ConfigFields
from ..core.errors import InputError
from . import ops
from .blocks import Conditioning
from .embeddings import UNetEmbedding
from .layers import Conv
from .unet import DownPath, Middle
from .unet_config import UNetConfig

CLASS = "ControlNetModel"  # of diffusers
INFERRED = "_inferred"  # a field of configs that come from the shapes of weights
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


@dataclass(frozen=True)
class ControlConfig:
    """A ControlNetModel. `unet` describes the layers that it shares with the UNets it is for; its way up is unused."""

    unet: UNetConfig
    image_channels: int
    embedding_channels: tuple[int, ...]  # of the layers that embed the control image; all but the last halve its size
    bgr: bool  # the image's channels are taken in reverse order
    pools: bool  # residuals are means over the picture; the half without a prompt then has none
    inferred: bool = False  # from the shapes of weights, which do not tell everything: see `completed_by`

    @property
    def downsampling(self) -> int:
        """Returns how many pixels of the control image a side one latent covers."""
        return int(2 ** (len(self.embedding_channels) - 1))

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> "ControlConfig":
        """Reads a ControlNet's config; InputError names a class or field that is missing or not supported."""
        f = ConfigFields(values, where)
        name = values.get("_class_name", CLASS)
        if name != CLASS:
            raise f.unsupported("_class_name", name, (CLASS,))
        channels = f.take("conditioning_channels", 3)
        embedding = tuple(f.take("conditioning_embedding_out_channels") or (16, 32, 96, 256))
        order = f.only("controlnet_conditioning_channel_order", "rgb", "bgr")
        pools = bool(f.take("global_pool_conditions", False))
        heads = f.take("num_attention_heads")
        shared = dict(f.unread)
        if heads is not None:  # attention_head_dim means the number of heads, see `UNetConfig`
            shared["attention_head_dim"] = heads
        down = shared.get("down_block_types") or ()
        shared["up_block_types"] = [str(kind).replace("Down", "Up") for kind in reversed(down)]
        inferred = bool(values.get(INFERRED, False))
        return cls(UNetConfig.from_hf(shared, where), channels, embedding, order == "bgr", pools, inferred)

    def completed_by(self, unet: UNetConfig) -> "ControlConfig":
        """Returns the config with what shapes do not tell, such as the number of heads, as the UNet has it.

        A control network is a copy of the UNet it was trained beside. A config that was not inferred stays as it is.
        """
        if not self.inferred:
            return self
        shared = self.unet
        down = tuple(replace(a, heads=b.heads) for a, b in zip(shared.down, unet.down, strict=True))
        middle = shared.mid and replace(shared.mid, heads=(unet.mid or unet.down[-1]).heads)
        fields = ("groups", "eps", "flip_sin_to_cos", "freq_shift", "far_padded", "added_time_dims")
        values = {name: getattr(unet, name) for name in fields}
        return replace(self, unet=replace(shared, down=down, mid=middle, **values))

    def misfit(self, unet: UNetConfig, latent_channels: int, downsampling: int) -> str | None:
        """Returns in which way the network does not fit a UNet, as the end of a sentence, or None where it fits.

        latent_channels, downsampling: of the UNet's autoencoder.
        """
        comparisons = {
            "{} levels": (len(self.unet.down), len(unet.down)),
            "skips of the widths {}": (self.unet.skip_channels, unet.skip_channels),
            "prompts of the width {}": (_context(self.unet) or _context(unet), _context(unet)),
            "{} features of text and sizes": (self.unet.added_inputs, unet.added_inputs),
            "latents of {} channels": (self.unet.in_channels, latent_channels),
            "{} pixels for a latent": (self.downsampling, downsampling),
        }
        for words, (own, other) in comparisons.items():
            if own != other:
                return f"it is for {words.format(_words(own))}, and the model has {_words(other)}"
        return None


class ImageEmbedding(nn.Module):
    """The layers that embed a control image, pixels (N, H, W, channels) -> features (N, H / 8, W / 8, outputs)."""

    def __init__(self, channels: int, widths: Sequence[int], outputs: int):
        super().__init__()
        self.first, self.last = Conv(channels, widths[0]), Conv(widths[-1], outputs)
        self.blocks: list[Conv] = []
        for width, following in zip(widths[:-1], widths[1:], strict=True):
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

    @property
    def names(self) -> dict[str, str]:
        """Returns this network's layers -> their names in a diffusers checkpoint."""
        parts = {"embedding": self.embedding, "down": self.down, "middle": self.middle}
        names = {f"{part}.{layer}": name for part, module in parts.items() for layer, name in module.names.items()}
        names |= {f"image.{layer}": f"controlnet_cond_embedding.{name}" for layer, name in self.image.names.items()}
        names |= {f"skip_outputs.{i}": f"controlnet_down_blocks.{i}" for i in range(len(self.skip_outputs))}
        return names | {"middle_output": "controlnet_mid_block"}

    @property
    def dtype(self) -> mx.Dtype:
        """Returns the dtype of the weights."""
        dtype: mx.Dtype = self.middle_output.weight.dtype
        return dtype

    def embed(self, image: mx.array) -> mx.array:
        """Returns the embedded control image (N, h, w, C) of pixels (N, H, W, channels) in [0, 1], RGB.

        It depends on neither latents nor timestep, so that one call serves all evaluations of a picture.
        """
        image = image.astype(self.dtype)
        return self.image(image[..., ::-1] if self.config.bgr else image)

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
    ) -> Residuals:
        """Returns the residuals for latents x (B, h, w, C), the input of the UNet at this evaluation.

        t, context, text_embeds, time_ids, class_labels: as `UNet.__call__` takes them; the context is not read by a
        network without transformers. image: (1 or B, h, w, C) of `embed`. scale: factor of all residuals. guess: guess
        mode, in which residuals grow from a tenth at skip 0 to all at the middle (Zhang et al. 2023, sec. 3.5).
        depth: None is all residuals; a number those of the outer `depth` skips, from the first stages alone and equal
        to the others bit for bit, which is all that a UNet reads that is called with `deep` at this depth.
        """
        x = x.astype(self.dtype)
        embedding = self.embedding(mx.broadcast_to(t, (x.shape[0],)), x.dtype, text_embeds, time_ids, class_labels)
        if self.config.unet.takes_context and context is None:
            raise InputError("this ControlNet takes a context")
        conditioning = Conditioning(embedding, None if context is None else context.astype(x.dtype))
        first = self.down(x, conditioning, stop=1)[0] + image
        skips = [first, *self.down(first, conditioning, start=1, stop=depth)]
        scales = self._scales(scale, guess)
        residuals = [
            self._scaled(output(skip), factor)
            for output, skip, factor in zip(self.skip_outputs, skips, scales, strict=False)
        ]
        if depth is not None:
            return Residuals(residuals, None)
        return Residuals(residuals, self._scaled(self.middle_output(self.middle(skips[-1], conditioning)), scales[-1]))

    def _scales(self, scale: float, guess: bool) -> list[float]:
        """Returns the factor of each skip's residual and, last, of the middle's."""
        count = len(self.skip_outputs) + 1
        if not guess or self.config.pools:
            return [scale] * count
        return [scale * _WEAKEST ** (1 - i / (count - 1)) for i in range(count)]

    def _scaled(self, residual: mx.array, factor: float) -> mx.array:
        residual = residual * factor
        return residual.mean(axis=(1, 2), keepdims=True) if self.config.pools else residual


def _zero_convolution(width: int) -> Conv:
    layer = Conv(width, width, kernel=1)
    layer.update({"weight": mx.zeros_like(layer.weight), "bias": mx.zeros_like(layer.bias)})
    return layer


def _context(config: UNetConfig) -> int:
    """Returns the width of the prompts that a network attends to, 0 where it attends to none."""
    blocks = (*config.down, *([config.mid] if config.mid else []))
    return max((block.context for block in blocks if any(block.transformers)), default=0)


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
