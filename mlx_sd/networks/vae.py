"""Autoencoders, KL or VQ: images (B, H, W, 3) in [-1, 1] <-> latents (B, h, w, C), channel-last, in tiles if large."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.errors import InputError
from . import ops
from .configs import VAEConfig
from .layers import Conv, FarPaddedConv, GroupNorm, ImageAttention

_EPS = 1e-6
_OVERLAP = 0.25  # of a tile, as diffusers' enable_tiling
# Large pictures go in tiles to bound memory: of so many pixels a side, above so many latents, for in the middle every
# latent looks at every other.
_TILE, _TILE_ABOVE = 512, 192


class Autoencoder(nn.Module):
    """Encoder and decoder; `names` gives each layer's name in a diffusers checkpoint."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder, names = _encoder(config)
        self._names = {f"encoder.{place}": f"encoder.{name}" for place, name in enumerate(names)}
        self.decoder, names = _decoder(config)
        self._names |= {f"decoder.{place}": f"decoder.{name}" for place, name in enumerate(names)}
        moments = 1 if config.codes else 2  # a latent, or the mean and variance of one
        if config.quant_conv:
            self.quant_conv = Conv(moments * config.inner_channels, moments * config.latent_channels, kernel=1)
        if config.codes:
            self.codebook = nn.Embedding(config.codes, config.latent_channels)
            self._names["codebook"] = "quantize.embedding"
        if config.post_quant_conv:
            self.post_quant_conv = Conv(config.latent_channels, config.inner_channels, kernel=1)

    @property
    def names(self) -> dict[str, str]:
        """This network's layers -> their names in a diffusers checkpoint."""
        return self._names

    @property
    def dtype(self) -> mx.Dtype:
        """Of its weights."""
        dtype: mx.Dtype = self.decoder[0].weight.dtype
        return dtype

    def tile(self, side: int, wanted: int | None) -> int:
        """Pixels a side of the tiles that a picture whose longer side is so long goes through in; 0 is whole."""
        if wanted is None:
            return max(_TILE, self.config.sample_size) if side > _TILE_ABOVE * self.config.downsampling else 0
        return wanted

    def encode(self, image: mx.array, tile: int | None = None) -> tuple[mx.array, mx.array]:
        """Mean and log variance of the posterior of images (B, H, W, 3), unscaled.

        Images larger than `tile` pixels a side are encoded in overlapping tiles of that size. Of a VQ autoencoder the
        mean is the latent before it is quantized, and the log variance -inf.
        """
        factor = self.config.downsampling
        moments = _tiled(self.moments, image, tile, 1 / factor) if tile else self.moments(image)
        if self.config.codes:
            return moments, mx.full(moments.shape, -mx.inf)
        mean, log_variance = mx.split(moments, 2, axis=-1)
        return mean, mx.clip(log_variance, -30.0, 20.0)

    def decode(self, latents: mx.array, tile: int | None = None) -> mx.array:
        """Images (B, H, W, 3) in about [-1, 1] of unscaled latents (B, h, w, C).

        Latents larger than `tile` pixels a side are decoded in overlapping tiles of that size.
        """
        factor = self.config.downsampling
        return _tiled(self._decode, latents, tile // factor, factor) if tile else self._decode(latents)

    def scale(self, latents: mx.array) -> mx.array:
        """The VAE's latents -> the UNet's, of about unit variance."""
        c = self.config
        if c.latents_mean:
            return (latents - mx.array(c.latents_mean)) * (c.scaling_factor / mx.array(c.latents_std))
        return (latents - c.shift_factor) * c.scaling_factor

    def unscale(self, latents: mx.array) -> mx.array:
        """The UNet's latents -> the VAE's."""
        c = self.config
        if c.latents_mean:
            return latents * (mx.array(c.latents_std) / c.scaling_factor) + mx.array(c.latents_mean)
        return latents / c.scaling_factor + c.shift_factor

    def moments(self, image: mx.array) -> mx.array:
        """Mean and log variance side by side (B, h, w, 2 C) of images (B, H, W, 3), as the network gives them.

        Of a VQ autoencoder the latents themselves, (B, h, w, C).
        """
        x = _run(image, self.encoder)
        return self.quant_conv(x) if self.config.quant_conv else x

    def _decode(self, latents: mx.array) -> mx.array:
        x = self.quantize(latents) if self.config.codes else latents
        return _run(self.post_quant_conv(x) if self.config.post_quant_conv else x, self.decoder)

    def quantize(self, latents: mx.array) -> mx.array:
        """Each latent (B, h, w, C) replaced by the nearest row of the codebook."""
        z, codes = latents.astype(mx.float32), self.codebook.weight.astype(mx.float32)
        distances = mx.sum(codes * codes, axis=-1) - 2 * (z @ codes.T)  # but for what all rows share
        nearest: mx.array = self.codebook(mx.argmin(distances, axis=-1))
        return nearest.astype(latents.dtype)


class Pixels(Autoencoder):
    """Stands where the autoencoder would for models that work on pixels: their latents are the images themselves."""

    dtype = mx.float32

    def __init__(self, channels: int, sample_size: int):
        nn.Module.__init__(self)
        none: dict[str, Any] = {"block_out_channels": [0], "force_upcast": False, "scaling_factor": 1.0}
        self.config = VAEConfig.from_hf(none | {"latent_channels": channels, "sample_size": sample_size})

    def tile(self, side: int, wanted: int | None) -> int:
        """There is nothing to be done in tiles."""
        return 0

    def encode(self, image: mx.array, tile: int | None = None) -> tuple[mx.array, mx.array]:
        """Images as they are; their log variance is -inf. InputError for images of other channels."""
        if image.shape[-1] != self.config.latent_channels:
            raise InputError(f"this model works on images of {self.config.latent_channels} channels, not of 3")
        return image, mx.full(image.shape, -mx.inf)

    def decode(self, latents: mx.array, tile: int | None = None) -> mx.array:
        """Images as they are."""
        return latents


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(inputs, groups, _EPS), Conv(inputs, outputs)
        self.norm2, self.conv2 = GroupNorm(outputs, groups, _EPS), Conv(outputs, outputs)
        if inputs != outputs:
            self.skip = Conv(inputs, outputs, kernel=1)

    def __call__(self, x: mx.array) -> mx.array:
        h = self.conv1(ops.silu(self.norm1(x)))
        h = self.conv2(ops.silu(self.norm2(h)))
        return (self.skip(x) if "skip" in self else x) + h


class Up(Conv):
    def __init__(self, channels: int):
        super().__init__(channels, channels)

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(ops.upsample(x))


class Activate(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        return ops.silu(x)


Named = list[tuple[str, nn.Module]]


def _encoder(config: VAEConfig) -> tuple[list[nn.Module], list[str]]:
    width = config.channels[0]
    layers: Named = [("conv_in", Conv(config.in_channels, width))]
    for level, channels in enumerate(config.channels):
        for i in range(config.layers):
            layers += [(f"down_blocks.{level}.resnets.{i}", ResBlock(width, channels, config.groups))]
            width = channels
        if level + 1 < len(config.channels):
            layers += [(f"down_blocks.{level}.downsamplers.0.conv", FarPaddedConv(width))]
    layers += _middle(width, config) + _head(width, (1 if config.codes else 2) * config.inner_channels, config)
    return [layer for _, layer in layers], [name for name, _ in layers]


def _decoder(config: VAEConfig) -> tuple[list[nn.Module], list[str]]:
    width = config.channels[-1]
    layers: Named = [("conv_in", Conv(config.inner_channels, width)), *_middle(width, config)]
    for level, channels in enumerate(reversed(config.channels)):
        for i in range(config.layers + 1):
            layers += [(f"up_blocks.{level}.resnets.{i}", ResBlock(width, channels, config.groups))]
            width = channels
        if level + 1 < len(config.channels):
            layers += [(f"up_blocks.{level}.upsamplers.0.conv", Up(width))]
    layers += _head(width, config.out_channels, config)
    return [layer for _, layer in layers], [name for name, _ in layers]


def _middle(width: int, config: VAEConfig) -> Named:
    found: Named = [("mid_block.resnets.0", ResBlock(width, width, config.groups))]
    if config.mid_attention:
        found += [("mid_block.attentions.0", ImageAttention(width, config.groups, _EPS))]
    return [*found, ("mid_block.resnets.1", ResBlock(width, width, config.groups))]


def _head(width: int, outputs: int, config: VAEConfig) -> Named:
    norm = ("conv_norm_out", GroupNorm(width, config.groups, _EPS))
    return [norm, ("", Activate()), ("conv_out", Conv(width, outputs))]


def _run(x: mx.array, layers: list[nn.Module]) -> mx.array:
    for layer in layers:
        x = layer(x)
    return x


def _tiled(function: Callable[[mx.array], mx.array], x: mx.array, tile: int, factor: float) -> mx.array:
    """Applies `function`, which scales sizes by `factor`, to overlapping tiles, and blends their seams linearly."""
    if max(x.shape[1:3]) <= tile:
        return function(x)
    stride, size = int(tile * (1 - _OVERLAP)), int(tile * factor)
    blend = int(size * _OVERLAP)
    keep = size - blend
    rows: list[list[mx.array]] = []
    for top in range(0, x.shape[1], stride):
        row = []
        for left in range(0, x.shape[2], stride):
            piece = function(x[:, top : top + tile, left : left + tile])
            mx.eval(piece)  # one tile's activations at a time
            row.append(piece)
        rows.append(row)
    lines = []
    for i, row in enumerate(rows):
        for j, piece in enumerate(row):
            if i:
                piece = _blend(rows[i - 1][j], piece, blend, axis=1)
            if j:
                piece = _blend(row[j - 1], piece, blend, axis=2)
            row[j] = piece
        lines.append(mx.concatenate([piece[:, :keep, :keep] for piece in row], axis=2))
    return mx.concatenate(lines, axis=1)


def _blend(before: mx.array, after: mx.array, extent: int, axis: int) -> mx.array:
    extent = min(extent, before.shape[axis], after.shape[axis])
    ramp = (mx.arange(extent) / extent).reshape([-1 if a == axis else 1 for a in range(4)])
    tail = mx.take(before, mx.arange(before.shape[axis] - extent, before.shape[axis]), axis)
    head, rest = mx.split(after, [extent], axis)
    return mx.concatenate([tail * (1 - ramp) + head * ramp, rest], axis)
