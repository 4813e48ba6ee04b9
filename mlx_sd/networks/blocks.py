"""What the UNet is built of, channel-last: every layer is called with the image and with what is `Given` beside it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from . import ops
from .layers import Attention, Conv, FarConv, GroupNorm, ImageAttention, LayerNorm, Linear
from .unet_config import Block, UNetConfig

# How a transformer's attention, over the image or over the prompt, is applied to x (B, N, C) and what it looks at.
Attend = Callable[[Attention, mx.array, mx.array], mx.array]


def apply(layer: Attention, x: mx.array, context: mx.array) -> mx.array:
    """Attention as the UNet was trained with it."""
    return layer(x, context)


class Given(NamedTuple):
    """What every layer may look at beside the image."""

    embedding: mx.array  # (B, E): time and what the model adds to it, activated
    context: mx.array | None  # (B, tokens, C): the prompt, or whatever stands for it
    attend: Attend = apply
    size: tuple[int, ...] | None = None  # (height, width) of the skip that comes next


class TimeEmbedding(nn.Module):
    """Two linears around a silu, on sinusoids of the time and, where a model takes it, an embedded guidance scale."""

    def __init__(self, inputs: int, outputs: int, guidance: int | None = None):
        super().__init__()
        self.linear1, self.linear2 = Linear(inputs, outputs), Linear(outputs, outputs)
        if guidance:
            self.guidance = Linear(guidance, inputs, bias=False)

    def __call__(self, x: mx.array, guidance: mx.array | None = None) -> mx.array:
        if guidance is not None:
            x = x + self.guidance(guidance.astype(x.dtype))
        return self.linear2(ops.silu(self.linear1(x)))


Resample = Callable[[mx.array], mx.array]


class ResBlock(nn.Module):
    """Two convolutions with the embedding added, or applied as scale and shift, between them.

    `resample` halves or doubles the size of the image on both ways through the block.
    """

    def __init__(self, inputs: int, outputs: int, config: UNetConfig, resample: Resample | None = None):
        super().__init__()
        self.scale_shift, self.resample = config.scale_shift, resample
        self.norm1, self.conv1 = GroupNorm(inputs, config.groups, config.eps), Conv(inputs, outputs)
        self.embed = Linear(config.embedding, outputs * (2 if config.scale_shift else 1))
        self.norm2, self.conv2 = GroupNorm(outputs, config.groups, config.eps), Conv(outputs, outputs)
        if inputs != outputs:
            self.skip = Conv(inputs, outputs, kernel=1)

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        h = ops.silu(self.norm1(x))
        if self.resample:
            x, h = self.resample(x), self.resample(h)
        h = self.conv1(h)
        e = self.embed(given.embedding)[:, None, None]
        if self.scale_shift:
            scale, shift = mx.split(e, 2, axis=-1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + e)
        return (self.skip(x) if "skip" in self else x) + self.conv2(ops.silu(h))


class Transformer(nn.Module):
    """Transformer blocks over the pixels of the image, around them a residual connection."""

    def __init__(self, block: Block, depth: int, groups: int):
        super().__init__()
        self.norm = GroupNorm(block.channels, groups, eps=1e-6)
        self.proj_in, self.proj_out = Linear(block.channels, block.channels), Linear(block.channels, block.channels)
        self.blocks = [TransformerBlock(block) for _ in range(depth)]

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        batch, height, width, channels = x.shape
        y = self.proj_in(self.norm(x).reshape(batch, height * width, channels))
        for block in self.blocks:
            y = block(y, given)
        return x + self.proj_out(y).reshape(x.shape)


class TransformerBlock(nn.Module):
    """Attention to the image, attention to the prompt, and a gated feed-forward."""

    def __init__(self, block: Block):
        super().__init__()
        dims = block.channels
        self.only_cross = block.only_cross
        self.norm1 = LayerNorm(dims)
        self.attn1 = Attention(dims, block.context if block.only_cross else dims, block.heads)
        self.norm2, self.attn2 = LayerNorm(dims), Attention(dims, block.context, block.heads)
        self.norm3, self.up, self.down = LayerNorm(dims), Linear(dims, 8 * dims), Linear(4 * dims, dims)

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        assert given.context is not None  # the UNet has asked for it
        y = self.norm1(x)
        x = x + given.attend(self.attn1, y, given.context if self.only_cross else y)
        x = x + given.attend(self.attn2, self.norm2(x), given.context)
        y, gate = mx.split(self.up(self.norm3(x)), 2, axis=-1)
        return x + self.down(y * ops.gelu(gate))


class PlainAttention(ImageAttention):
    """Attention over the image alone."""

    def __call__(self, x: mx.array, given: Given | None = None) -> mx.array:
        return super().__call__(x)


class In(nn.Module):
    """The first convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = Conv(inputs, outputs)

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        return self.conv(x)


class Down(nn.Module):
    """Halves the size, rounding up; where it is asymmetric, rounding down."""

    def __init__(self, channels: int, asymmetric: bool = False):
        super().__init__()
        self.conv = FarConv(channels) if asymmetric else Conv(channels, channels, stride=2)

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        return self.conv(x)


class Up(nn.Module):
    """Doubles the size, to that of the skip that comes next."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels)

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        x = ops.upsample(x)
        if given.size and given.size != x.shape[1:3]:  # an odd size was rounded up on the way down
            x = x[:, : given.size[0], : given.size[1]]
        return self.conv(x)


def halve(x: mx.array) -> mx.array:
    """Means of 2 x 2 pixels; height and width are even."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def waves(t: mx.array, dims: int, config: UNetConfig) -> mx.array:
    """Sinusoids (N, dims) of times (N,), in float32 (Ho et al. 2020, after Vaswani et al. 2017)."""
    half = dims // 2
    rates = mx.exp(-math.log(10000) * mx.arange(half, dtype=mx.float32) / (half - config.freq_shift))
    angles = t.astype(mx.float32)[:, None] * rates
    parts = [mx.cos(angles), mx.sin(angles)] if config.flip_sin_to_cos else [mx.sin(angles), mx.cos(angles)]
    return mx.concatenate(parts, axis=-1)


def class_embedding(config: UNetConfig) -> nn.Module:
    """What turns class labels into what is added to the time embedding; an identity where they are that already."""
    if config.class_embedding == "table":
        return nn.Embedding(config.class_inputs, config.embedding)
    if config.class_embedding == "timestep":
        return TimeEmbedding(config.channels, config.embedding)
    if config.class_embedding == "projection":
        return TimeEmbedding(config.class_inputs, config.embedding)
    if config.class_embedding == "simple_projection":
        return Linear(config.class_inputs, config.embedding)
    return nn.Identity()
