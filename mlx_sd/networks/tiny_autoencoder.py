"""The tiny autoencoder (TAESD, Boer Bohan 2023; diffusers' AutoencoderTiny): convolutions and ReLU, nothing else.

Images (B, H, W, 3) in [-1, 1] <-> latents (B, h, w, C) at the scale of the UNet's own, so that nothing is to be scaled.
"""

import mlx.core as mx
import mlx.nn as nn

from . import ops
from .configs import TinyConfig
from .layers import Conv
from .vae import Autoencoder, NamedLayers, Upsample, run_layers

_BOUND = 3.0  # of latents, which the decoder approaches smoothly


class TinyAutoencoder(Autoencoder):
    """An encoder and a decoder of so few multiplications that a decoded picture can be shown at every step."""

    def __init__(self, config: TinyConfig):
        nn.Module.__init__(self)
        self.config = config
        self.encoder, encoder_names = _layers("encoder", _encoder(config))
        self.decoder, decoder_names = _layers("decoder", _decoder(config))
        self._names = encoder_names | decoder_names

    def moments(self, image: mx.array) -> mx.array:
        """Returns the latents (B, h, w, C) of images (B, H, W, 3); the encoder has no variance."""
        return run_layers((image + 1) / 2, self.encoder)

    def _decode(self, latents: mx.array) -> mx.array:
        return run_layers(mx.tanh(latents / _BOUND) * _BOUND, self.decoder) * 2 - 1


class TinyBlock(nn.Module):
    """Three convolutions with a residual connection around them, and a ReLU: (B, h, w, C) -> (B, h, w, C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (Conv(channels, channels) for _ in range(3))

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the features (B, h, w, C)."""
        y = ops.relu(self.conv2(ops.relu(self.conv1(x))))
        return ops.relu(x + self.conv3(y))


class ReLU(nn.Module):
    """The activation after the decoder's first convolution."""

    def __call__(self, x: mx.array) -> mx.array:
        """Returns max(x, 0), elementwise."""
        return ops.relu(x)


def _encoder(config: TinyConfig) -> NamedLayers:
    width = config.channels[0]
    layers: list[nn.Module] = []
    for stage, blocks in enumerate(config.encoder_blocks):
        layers.append(Conv(width, width, stride=2, bias=False) if stage else Conv(config.in_channels, width))
        layers += [TinyBlock(width) for _ in range(blocks)]
    layers.append(Conv(width, config.latent_channels))
    return [(str(i), layer) for i, layer in enumerate(layers)]


def _decoder(config: TinyConfig) -> NamedLayers:
    width = config.decoder_width
    layers: NamedLayers = [("0", Conv(config.latent_channels, width)), ("1", ReLU())]
    number = 2  # of the layer in a checkpoint, where repeating pixels is a layer of its own
    for stage, blocks in enumerate(config.decoder_blocks):
        layers += [(str(number + i), TinyBlock(width)) for i in range(blocks)]
        number += blocks
        if stage + 1 < len(config.decoder_blocks):
            layers.append((str(number + 1), Upsample(width, bias=False)))
            number += 2
    return [*layers, (str(number), Conv(width, config.out_channels))]


def _layers(side: str, named: NamedLayers) -> tuple[list[nn.Module], dict[str, str]]:
    """Returns the layers of one side, and our names of them -> those of a diffusers checkpoint."""
    names = {}
    for i, (number, layer) in enumerate(named):
        names[f"{side}.{i}"] = f"{side}.layers.{number}"
        if isinstance(layer, TinyBlock):
            names |= {f"{side}.{i}.conv{j + 1}": f"{side}.layers.{number}.conv.{2 * j}" for j in range(3)}
    return [layer for _, layer in named], names
