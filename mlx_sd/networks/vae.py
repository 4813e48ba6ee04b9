"""Autoencoders (diffusers' AutoencoderKL and VQModel), channel-last, in overlapping tiles where images are large.

Images (B, H, W, 3) in [-1, 1] <-> latents (B, h, w, C).
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.errors import InputError
from . import ops
from .configs import VAEConfig
from .layers import Conv, FarPaddedConv, GroupNorm, ImageAttention

# Arrays of tiles that are not evaluated yet -> the same, evaluated
EvaluateTiles = Callable[[Sequence[mx.array]], Sequence[mx.array]]

_EPS = 1e-6
_OVERLAP = 0.25  # of a tile's side, as diffusers' enable_tiling
# Tiles bound the memory: the attention in the middle has a score for every pair of latents. Pixels a side of a tile,
# and latents a side above which images are tiled.
_TILE, _TILE_ABOVE = 512, 192
_LEAST = 4  # latents a side of a tile


def one_by_one(tiles: Sequence[mx.array]) -> Sequence[mx.array]:
    """Evaluates tiles one at a time, so that the activations of one are in memory."""
    for tile in tiles:
        mx.eval(tile)
    return tiles


class Autoencoder(nn.Module):
    """An encoder and a decoder; of a VQ autoencoder also the codebook that latents are rounded to."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder, names = _encoder(config)
        self._names = {f"encoder.{i}": f"encoder.{name}" for i, name in enumerate(names)}
        self.decoder, names = _decoder(config)
        self._names |= {f"decoder.{i}": f"decoder.{name}" for i, name in enumerate(names)}
        moments = 1 if config.codes else 2  # a latent, or its mean and log variance
        if config.quant_conv:
            self.quant_conv = Conv(moments * config.inner_channels, moments * config.latent_channels, kernel=1)
        if config.codes:
            self.codebook = nn.Embedding(config.codes, config.latent_channels)
            self._names["codebook"] = "quantize.embedding"
        if config.post_quant_conv:
            self.post_quant_conv = Conv(config.latent_channels, config.inner_channels, kernel=1)

    @property
    def names(self) -> dict[str, str]:
        """Returns this network's layers -> their names in a diffusers checkpoint."""
        return self._names

    @property
    def dtype(self) -> mx.Dtype:
        """Returns the dtype of the weights."""
        dtype: mx.Dtype = self.decoder[0].weight.dtype
        return dtype

    def tile(self, side: int, tile: int | None) -> int:
        """Returns the pixels a side of the tiles for an image whose longer side is `side` pixels; 0 is no tiles.

        tile: the user's choice, or None for tiles where the image is large. InputError where it is too small.
        """
        least = _LEAST * self.config.downsampling
        if tile and tile < least:
            raise InputError(f"tile must be 0, for no tiles, or at least {least} pixels, not {tile}")
        if tile is None:
            return max(_TILE, self.config.sample_size) if side > _TILE_ABOVE * self.config.downsampling else 0
        return tile

    def tile_in_low_memory(self, side: int) -> int | None:
        """Returns the pixels a side of the tiles where memory is small; None for an image that is no larger."""
        return _TILE if side > _TILE else None

    def encode(self, image: mx.array, tile: int | None = None) -> tuple[mx.array, mx.array]:
        """Encodes images (B, H, W, 3) as the mean and log variance (B, h, w, C) of unscaled latents.

        Images larger than `tile` pixels a side are encoded in overlapping tiles of that size. Where encoding is
        deterministic the log variance is -inf; of a VQ autoencoder the mean is the latent before it is rounded to the
        codebook.
        """
        factor = self.config.downsampling
        moments = _tiled(self.moments, image, tile // factor, factor, 1) if tile else self.moments(image)
        if self.config.deterministic:
            return moments, mx.full(moments.shape, -mx.inf)
        mean, log_variance = mx.split(moments, 2, axis=-1)
        return mean, mx.clip(log_variance, -30.0, 20.0)

    def decode(self, latents: mx.array, tile: int | None = None, evaluate: EvaluateTiles = one_by_one) -> mx.array:
        """Decodes unscaled latents (B, h, w, C) into images (B, H, W, 3) in about [-1, 1].

        Latents of images larger than `tile` pixels a side are decoded in overlapping tiles of that size. evaluate:
        evaluates the tiles, of which other ranks may have some.
        """
        return self._decoded(self._decode, latents, tile, evaluate)

    def scale(self, latents: mx.array) -> mx.array:
        """Scales the autoencoder's latents (B, h, w, C) to about unit variance, as the UNet takes them."""
        c = self.config
        if c.latents_mean:
            return (latents - mx.array(c.latents_mean)) * (c.scaling_factor / mx.array(c.latents_std))
        return (latents - c.shift_factor) * c.scaling_factor

    def unscale(self, latents: mx.array) -> mx.array:
        """Scales the UNet's latents (B, h, w, C) back to the autoencoder's."""
        c = self.config
        if c.latents_mean:
            return latents * (mx.array(c.latents_std) / c.scaling_factor) + mx.array(c.latents_mean)
        return latents / c.scaling_factor + c.shift_factor

    def moments(self, image: mx.array) -> mx.array:
        """Returns mean and log variance (B, h, w, 2 C), side by side and unclipped, of images (B, H, W, 3).

        Where encoding is deterministic it returns the latents themselves, (B, h, w, C).
        """
        x = run_layers(image, self.encoder)
        return self.quant_conv(x) if self.config.quant_conv else x

    def _decoded(
        self, decode: Callable[[mx.array], mx.array], latents: mx.array, tile: int | None, evaluate: EvaluateTiles
    ) -> mx.array:
        factor = self.config.downsampling
        return _tiled(decode, latents, tile // factor, 1, factor, evaluate) if tile else decode(latents)

    def _decode(self, latents: mx.array) -> mx.array:
        return self._decode_rows(self.quantize(latents) if self.config.codes else latents)

    def _decode_rows(self, rows: mx.array) -> mx.array:
        return run_layers(self.post_quant_conv(rows) if self.config.post_quant_conv else rows, self.decoder)

    def quantize(self, latents: mx.array) -> mx.array:
        """Replaces each latent of (B, h, w, C) by the nearest row of the codebook (van den Oord et al. 2017)."""
        nearest: mx.array = self.codebook(self.tokens(latents))
        return nearest.astype(latents.dtype)

    def tokens(self, latents: mx.array) -> mx.array:
        """Returns the row (B, h, w) of the codebook that is nearest to each latent of (B, h, w, C)."""
        z, codes = latents.astype(mx.float32), self.codebook.weight.astype(mx.float32)
        distances = mx.sum(codes * codes, axis=-1) - 2 * (z @ codes.T)  # |z - code|^2 - |z|^2
        return mx.argmin(distances, axis=-1)

    def decode_tokens(self, tokens: mx.array, tile: int | None = None) -> mx.array:
        """Decodes rows (B, h, w) of the codebook into images (B, H, W, 3) in about [-1, 1]; tile: as of `decode`."""
        return self._decoded(self._decode_rows, self.codebook(tokens), tile, one_by_one)


class Pixels(Autoencoder):
    """Takes the place of an autoencoder in models that work on pixels: their latents are the images themselves."""

    dtype = mx.float32

    def __init__(self, channels: int, sample_size: int):
        nn.Module.__init__(self)
        values: dict[str, Any] = {"block_out_channels": [0], "force_upcast": False, "scaling_factor": 1.0}
        self.config = VAEConfig.from_hf(values | {"latent_channels": channels, "sample_size": sample_size})

    def tile(self, side: int, tile: int | None) -> int:
        """Returns 0: an image that is not encoded needs no tiles."""
        return 0

    def tile_in_low_memory(self, side: int) -> None:
        """Returns None: an image that is not encoded needs no tiles."""

    def encode(self, image: mx.array, tile: int | None = None) -> tuple[mx.array, mx.array]:
        """Returns images (B, H, W, C) and a log variance of -inf; InputError for images of other channels."""
        if image.shape[-1] != self.config.latent_channels:
            raise InputError(f"this model works on images of {self.config.latent_channels} channels, not of 3")
        return image, mx.full(image.shape, -mx.inf)

    def decode(self, latents: mx.array, tile: int | None = None, evaluate: EvaluateTiles = one_by_one) -> mx.array:
        """Returns the latents (B, H, W, C), which are the images."""
        return latents


class ResBlock(nn.Module):
    """Two convolutions with a residual connection around them: (B, h, w, inputs) -> (B, h, w, outputs)."""

    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(inputs, groups, _EPS), Conv(inputs, outputs)
        self.norm2, self.conv2 = GroupNorm(outputs, groups, _EPS), Conv(outputs, outputs)
        if inputs != outputs:
            self.skip = Conv(inputs, outputs, kernel=1)

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the features (B, h, w, outputs)."""
        h = self.conv1(ops.silu(self.norm1(x)))
        h = self.conv2(ops.silu(self.norm2(h)))
        return (self.skip(x) if "skip" in self else x) + h


class Upsample(Conv):
    """Doubles height and width by repetition, and convolves."""

    def __init__(self, channels: int, bias: bool = True):
        super().__init__(channels, channels, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        """Returns (B, 2 h, 2 w, C) of x (B, h, w, C)."""
        return super().__call__(ops.upsample(x))


class SiLU(nn.Module):
    """The activation before the last convolution."""

    def __call__(self, x: mx.array) -> mx.array:
        """Returns x sigmoid(x), elementwise."""
        return ops.silu(x)


NamedLayers = list[tuple[str, nn.Module]]  # layers after their names in a diffusers checkpoint


def _encoder(config: VAEConfig) -> tuple[list[nn.Module], list[str]]:
    width = config.channels[0]
    layers: NamedLayers = [("conv_in", Conv(config.in_channels, width))]
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
    layers: NamedLayers = [("conv_in", Conv(config.inner_channels, width)), *_middle(width, config)]
    for level, channels in enumerate(reversed(config.channels)):
        for i in range(config.layers + 1):
            layers += [(f"up_blocks.{level}.resnets.{i}", ResBlock(width, channels, config.groups))]
            width = channels
        if level + 1 < len(config.channels):
            layers += [(f"up_blocks.{level}.upsamplers.0.conv", Upsample(width))]
    layers += _head(width, config.out_channels, config)
    return [layer for _, layer in layers], [name for name, _ in layers]


def _middle(width: int, config: VAEConfig) -> NamedLayers:
    layers: NamedLayers = [("mid_block.resnets.0", ResBlock(width, width, config.groups))]
    if config.mid_attention:
        layers += [("mid_block.attentions.0", ImageAttention(width, config.groups, _EPS))]
    return [*layers, ("mid_block.resnets.1", ResBlock(width, width, config.groups))]


def _head(width: int, outputs: int, config: VAEConfig) -> NamedLayers:
    norm = ("conv_norm_out", GroupNorm(width, config.groups, _EPS))
    return [norm, ("", SiLU()), ("conv_out", Conv(width, outputs))]


def run_layers(x: mx.array, layers: list[nn.Module]) -> mx.array:
    """Returns what the last of layers makes of x (B, h, w, C), each run on the output of the one before."""
    for layer in layers:
        x = layer(x)
    return x


def _tiled(
    function: Callable[[mx.array], mx.array],
    x: mx.array,
    tile: int,
    before: int,
    after: int,
    evaluate: EvaluateTiles = one_by_one,
) -> mx.array:
    """Applies a function to overlapping tiles of `tile` latents a side, and blends their seams.

    x: (B, h, w, C) of `before` pixels a latent; the result has `after` pixels a latent. Seams are blended linearly, as
    diffusers does.
    """
    side = tile * before
    if max(x.shape[1:3]) <= side:
        return function(x)
    step = int(tile * (1 - _OVERLAP))  # latents from one tile to the next, at least 1 of at least 2
    stride, length, blend = step * before, step * after, (tile - step) * after
    lefts = range(0, x.shape[2], stride)
    corners = product(range(0, x.shape[1], stride), lefts)
    tiles = evaluate([function(x[:, top : top + side, left : left + side]) for top, left in corners])
    rows = [list(tiles[i : i + len(lefts)]) for i in range(0, len(tiles), len(lefts))]
    lines = []
    for i, row in enumerate(rows):
        for j, result in enumerate(row):
            if i:
                result = _blend(rows[i - 1][j], result, blend, axis=1)
            if j:
                result = _blend(row[j - 1], result, blend, axis=2)
            row[j] = result
        lines.append(mx.concatenate([result[:, :length, :length] for result in row], axis=2))
    return mx.concatenate(lines, axis=1)


def _blend(before: mx.array, after: mx.array, extent: int, axis: int) -> mx.array:
    extent = min(extent, before.shape[axis], after.shape[axis])
    ramp = (mx.arange(extent) / extent).reshape([-1 if a == axis else 1 for a in range(4)])
    tail = mx.take(before, mx.arange(before.shape[axis] - extent, before.shape[axis]), axis)
    head, body = mx.split(after, [extent], axis)
    return mx.concatenate([tail * (1 - ramp) + head * ramp, body], axis)
