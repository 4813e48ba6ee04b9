"""T2I-Adapter (Mou et al. 2023): a small network that sees an image once, and adds features inside the UNet's way down.

    image ─▶ blocks[0] ─▶ blocks[1] ─▶ blocks[2] ─▶ blocks[3]
                 │            │            │            │         the same at every evaluation
             UNet's levels: the last output before each is made smaller

What a control network adds meets the skips alone; these features flow on into the levels below.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.config_fields import ConfigFields
from . import ops
from .layers import Conv
from .unet_config import UNetConfig

CLASS = "T2IAdapter"  # of diffusers
FULL, XL, LIGHT = "full_adapter", "full_adapter_xl", "light_adapter"
# Fields of configs that come from the shapes of weights: the kernel of layers that are 1x1 in diffusers, and whether
# convolutions and not means make features smaller.
KERNEL, CONVOLVES = "_kernel", "_convolves"


@dataclass(frozen=True)
class AdapterConfig:
    """A T2IAdapter of any of the three kinds."""

    kind: str  # FULL, XL or LIGHT
    image_channels: int
    unshuffle: int  # pixels a side that become channels of one feature
    channels: tuple[int, ...]  # of each block's features
    resnets: int  # in each block
    kernel: int = 1
    convolves: bool = False

    @property
    def shrinks(self) -> tuple[bool, ...]:
        """Returns whether each block halves height and width."""
        return tuple(i == 2 if self.kind == XL else i > 0 for i in range(len(self.channels)))

    @property
    def downsampling(self) -> tuple[int, ...]:
        """Returns how many pixels a side one feature of each block covers."""
        halvings = [sum(self.shrinks[: i + 1]) for i in range(len(self.channels))]
        return tuple(int(self.unshuffle * 2**count) for count in halvings)

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> "AdapterConfig":
        """Reads a T2IAdapter's config; InputError names a class or field that is missing or not supported."""
        f = ConfigFields(values, where)
        if (name := values.get("_class_name", CLASS)) != CLASS:
            raise f.unsupported("_class_name", name, (CLASS,))
        kind = f.only("adapter_type", FULL, XL, LIGHT)
        channels = tuple(f.take("channels", (320, 640, 1280) if kind == LIGHT else (320, 640, 1280, 1280)))
        config = cls(
            kind=kind,
            image_channels=f.take("in_channels", 3),
            unshuffle=f.take("downscale_factor", 8),
            channels=(*channels, channels[-1]) if kind == LIGHT else channels,
            resnets=f.take("num_res_blocks", 2),
            kernel=int(values.get(KERNEL, 1)),
            convolves=bool(values.get(CONVOLVES, False)),
        )
        f.done()
        return config

    def misfit(self, unet: UNetConfig, latent_factor: int) -> str | None:
        """Returns in which way the features do not fit a UNet, as the end of a sentence, or None where they fit.

        latent_factor: pixels a side of one latent.
        """
        expected = places(unet)
        if len(self.channels) > len(expected):
            return f"it has features for {len(self.channels)} levels, and the model has {len(expected) - 1}"
        for channels, (_, width, factor), size in zip(self.channels, expected, self.downsampling, strict=False):
            if (channels, size) != (width, factor * latent_factor):
                return (
                    f"it has features of width {channels} for {size} x {size} pixels, and the model has {width} for "
                    f"{factor * latent_factor} x {factor * latent_factor}"
                )
        return None


def places(unet: UNetConfig) -> list[tuple[int, int, int]]:
    """Returns (stage, width, latents a side of one feature) of each output of a UNet that features are added to.

    That is the last output of each level: before the downsampling where the level attends to a prompt, after it where
    not, as diffusers has it. The number after the last stage is the middle's.
    """
    outputs, stage, factor = [], 0, 1
    for level, block in enumerate(unet.down):
        stage += block.resnets
        shrinks = level + 1 < len(unet.down)
        after = shrinks and not block.transformers
        outputs.append((stage + after, block.channels, factor * (1 + after)))
        stage, factor = stage + shrinks, factor * (1 + shrinks)
    return [*outputs, (stage + 1, unet.down[-1].channels, factor)]


class T2IAdapter(nn.Module):
    """Makes the features of an image: pixels (N, H, W, C) in [0, 1] -> one array (N, h, w, C') for each block."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        inputs, light = config.image_channels * config.unshuffle**2, config.kind == LIGHT
        if not light:
            self.first = Conv(inputs, config.channels[0])
            inputs = config.channels[0]
        self.blocks: list[Block] = []
        for width, shrinks in zip(config.channels, config.shrinks, strict=True):
            self.blocks.append(LightBlock(inputs, width, config) if light else Block(inputs, width, config, shrinks))
            inputs = width

    @property
    def names(self) -> dict[str, str]:
        """Returns this network's layers -> their names in a diffusers checkpoint."""
        names = {"first": "adapter.conv_in"}
        for i, block in enumerate(self.blocks):
            names |= {f"blocks.{i}.{part}": f"adapter.body.{i}.{name}" for part, name in _PARTS.items()}
            for j in range(len(block.resnets)):
                for part, name in (("conv1", "block1"), ("conv2", "block2")):
                    names[f"blocks.{i}.resnets.{j}.{part}"] = f"adapter.body.{i}.resnets.{j}.{name}"
        return names

    @property
    def dtype(self) -> mx.Dtype:
        """Returns the dtype of the weights."""
        dtype: mx.Dtype = self.blocks[0].resnets[0].conv1.weight.dtype
        return dtype

    def __call__(self, image: mx.array) -> list[mx.array]:
        """Returns the features of pixels (N, H, W, C), whose sides are multiples of `config.unshuffle`."""
        x = pixel_unshuffle(image.astype(self.dtype), self.config.unshuffle)
        if "first" in self:
            x = self.first(x)
        features = []
        for block, shrinks in zip(self.blocks, self.config.shrinks, strict=True):
            if shrinks:
                x = block.down(x) if "down" in block else average_of_four(x)
            features.append(x := block(x))
        return features


_PARTS = {"down": "down_opt", "in_conv": "in_conv", "out_conv": "out_conv"}


class Block(nn.Module):
    """Residual blocks of one width, after a convolution to that width: (N, h, w, inputs) -> (N, h, w, outputs)."""

    def __init__(self, inputs: int, outputs: int, config: AdapterConfig, shrinks: bool = False):
        super().__init__()
        if shrinks and config.convolves:
            self.down = Conv(inputs, inputs, stride=2)
        if inputs != outputs:
            self.in_conv = Conv(inputs, outputs, kernel=config.kernel)
        self.resnets = [Resnet(outputs, config.kernel) for _ in range(config.resnets)]

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the features (N, h, w, outputs)."""
        if "in_conv" in self:
            x = self.in_conv(x)
        for resnet in self.resnets:
            x = resnet(x)
        return x


class LightBlock(Block):
    """Residual blocks of a quarter of the outputs' width, between two 1x1 convolutions."""

    def __init__(self, inputs: int, outputs: int, config: AdapterConfig):
        nn.Module.__init__(self)
        width = outputs // 4
        self.in_conv, self.out_conv = Conv(inputs, width, kernel=1), Conv(width, outputs, kernel=1)
        self.resnets = [Resnet(width, 3) for _ in range(config.resnets)]

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the features (N, h, w, outputs)."""
        return self.out_conv(super().__call__(x))


class Resnet(nn.Module):
    """Two convolutions with a residual connection around them."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.conv1, self.conv2 = Conv(channels, channels), Conv(channels, channels, kernel=kernel)

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the features (N, h, w, C) of x (N, h, w, C)."""
        return x + self.conv2(ops.relu(self.conv1(x)))


def pixel_unshuffle(x: mx.array, factor: int) -> mx.array:
    """Returns (N, h, w, C r^2) of x (N, h r, w r, C): of each channel the r x r pixels of a cell, row by row."""
    n, height, width, channels = x.shape
    cells = x.reshape(n, height // factor, factor, width // factor, factor, channels)
    return cells.transpose(0, 1, 3, 5, 2, 4).reshape(n, height // factor, width // factor, channels * factor**2)


def average_of_four(x: mx.array) -> mx.array:
    """Returns the means (N, ceil(h / 2), ceil(w / 2), C) of cells of 2 x 2; a last odd row or column is its own."""
    for axis in (1, 2):
        if x.shape[axis] % 2:
            last = mx.take(x, mx.array([x.shape[axis] - 1]), axis)
            x = mx.concatenate([x, last], axis)
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
