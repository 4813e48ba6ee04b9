"""The layers of the UNet, channel-last: every layer is called with an image and its `Conditioning`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from . import ops
from .layers import Attention, Conv, FarPaddedConv, GroupNorm, ImageAttention, LayerNorm, Linear
from .unet_config import Block, UNetConfig

# How a transformer applies an attention layer to x (B, N, C) and to the sequence that x attends to (B, M, D).
Attend = Callable[[Attention, mx.array, mx.array], mx.array]
Resample = Callable[[mx.array], mx.array]


# How a layer of a stage is run on x (B, h, w, C).
RunLayer = Callable[[nn.Module, mx.array, "Conditioning"], mx.array]


def apply_attention(layer: Attention, x: mx.array, context: mx.array) -> mx.array:
    """Applies an attention layer as the UNet was trained with it; (B, N, C) -> (B, N, C)."""
    return layer(x, context)


def run_layer(layer: nn.Module, x: mx.array, conditioning: "Conditioning") -> mx.array:
    """Runs a layer of a stage on x (B, h, w, C); training has other ways, which compute it again for its gradient."""
    y: mx.array = layer(x, conditioning)
    return y


class Conditioning(NamedTuple):
    """What a layer may read beside the image."""

    embedding: mx.array  # (B, E): `UNetEmbedding`'s
    context: mx.array | None  # (B, tokens, C): the encoded prompt, or what stands for it; None where none is read
    attend: Attend = apply_attention
    run: RunLayer = run_layer
    skip_size: tuple[int, ...] | None = None  # (height, width) of the skip that the next stage joins
    features: Mapping[int, mx.array] = MappingProxyType(
        {}
    )  # a T2I-Adapter's, by the stage to whose output each is added


class InputConv(Conv):
    """The first convolution of the UNet: (B, h, w, inputs) -> (B, h, w, outputs)."""

    def __call__(self, x: mx.array, conditioning: Conditioning | None = None) -> mx.array:
        """Returns the convolved image; the conditioning is not read."""
        return super().__call__(x)


class ResBlock(nn.Module):
    """Two convolutions with the embedding between them, and a residual connection around (He et al. 2016).

    (B, h, w, inputs) -> (B, h, w, outputs). The embedding is added, or, where the config says scale_shift, scales and
    shifts the normalised features (Dhariwal and Nichol 2021). `resample` halves or doubles the size on both paths.
    """

    def __init__(self, inputs: int, outputs: int, config: UNetConfig, resample: Resample | None = None):
        super().__init__()
        self.scale_shift, self.resample = config.scale_shift, resample
        self.norm1, self.conv1 = GroupNorm(inputs, config.groups, config.eps), Conv(inputs, outputs)
        self.embed = Linear(config.embedding, outputs * (2 if config.scale_shift else 1))
        self.norm2, self.conv2 = GroupNorm(outputs, config.groups, config.eps), Conv(outputs, outputs)
        if inputs != outputs:
            self.skip = Conv(inputs, outputs, kernel=1)

    def __call__(self, x: mx.array, conditioning: Conditioning) -> mx.array:
        """Returns the features (B, h, w, outputs), of half or double the size with `resample`."""
        h = ops.silu(self.norm1(x))
        if self.resample:
            x, h = self.resample(x), self.resample(h)
        h = self.conv1(h)
        embedding = self.embed(conditioning.embedding)[:, None, None]
        if self.scale_shift:
            scale, shift = mx.split(embedding, 2, axis=-1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + embedding)
        return (self.skip(x) if "skip" in self else x) + self.conv2(ops.silu(h))


class Transformer(nn.Module):
    """Transformer blocks over the pixels of an image (B, h, w, C), with a residual connection around them."""

    def __init__(self, block: Block, depth: int, groups: int):
        super().__init__()
        self.norm = GroupNorm(block.channels, groups, eps=1e-6)
        self.proj_in, self.proj_out = Linear(block.channels, block.channels), Linear(block.channels, block.channels)
        self.blocks = [TransformerBlock(block) for _ in range(depth)]

    def __call__(self, x: mx.array, conditioning: Conditioning) -> mx.array:
        """Returns the features (B, h, w, C)."""
        batch, height, width, channels = x.shape
        y = self.proj_in(self.norm(x).reshape(batch, height * width, channels))
        for block in self.blocks:
            y = block(y, conditioning)
        return x + self.proj_out(y).reshape(x.shape)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the context, and a gated feed-forward (GEGLU, Shazeer 2020), each residual."""

    def __init__(self, block: Block):
        super().__init__()
        dims = block.channels
        self.only_cross = block.only_cross
        self.norm1 = LayerNorm(dims)
        self.attn1 = Attention(dims, block.context if block.only_cross else dims, block.heads)
        self.norm2, self.attn2 = LayerNorm(dims), Attention(dims, block.context, block.heads)
        self.norm3, self.up, self.down = LayerNorm(dims), Linear(dims, 8 * dims), Linear(4 * dims, dims)

    def __call__(self, x: mx.array, conditioning: Conditioning) -> mx.array:
        """Returns the sequence (B, N, C) of a sequence (B, N, C)."""
        context, attend = conditioning.context, conditioning.attend
        assert context is not None  # UNet.__call__ refuses to run without one
        y = self.norm1(x)
        x = x + attend(self.attn1, y, context if self.only_cross else y)
        x = x + attend(self.attn2, self.norm2(x), context)
        y, gate = mx.split(self.up(self.norm3(x)), 2, axis=-1)
        return x + self.down(y * ops.gelu(gate))


class AttentionBlock(ImageAttention):
    """Self-attention over the pixels of an image (B, h, w, C), without a transformer around it (UNet2DModel's)."""

    names: ClassVar[Mapping[str, str]] = {"norm": "group_norm"}  # in a diffusers checkpoint

    def __call__(self, x: mx.array, conditioning: Conditioning | None = None) -> mx.array:
        """Returns the features (B, h, w, C); the conditioning is not read."""
        return super().__call__(x)


class Downsample(nn.Module):
    """A convolution that halves height and width, rounding up; with far padding, rounding down."""

    def __init__(self, channels: int, far_padded: bool = False):
        super().__init__()
        self.conv = FarPaddedConv(channels) if far_padded else Conv(channels, channels, stride=2)

    def __call__(self, x: mx.array, conditioning: Conditioning) -> mx.array:
        """Returns (B, h / 2, w / 2, C) of (B, h, w, C)."""
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles height and width by repetition, cuts them to those of the skip that comes next, and convolves."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels)

    def __call__(self, x: mx.array, conditioning: Conditioning) -> mx.array:
        """Returns (B, 2 h, 2 w, C) of (B, h, w, C), or one less where an odd size was rounded up on the way down."""
        x, size = ops.upsample(x), conditioning.skip_size
        if size and size != x.shape[1:3]:
            x = x[:, : size[0], : size[1]]
        return self.conv(x)


def average_pool(x: mx.array) -> mx.array:
    """Returns the means (B, h / 2, w / 2, C) of 2 x 2 pixels of (B, h, w, C); height and width are even."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
