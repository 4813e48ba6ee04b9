"""IP-Adapter (Ye et al. 2023): an image as a prompt, in a second cross-attention beside the one to the text.

    image ─▶ image encoder ─▶ projection ─▶ tokens ─┐
    text  ─▶ text encoder  ─────────────▶ context ──┼──▶ every cross-attention:
                                                    │
        out( A(q, K, V)  +  scale · A(q, K_image, V_image) )      the same q, two softmaxes, one output projection

The tokens travel beside the context, never joined to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.config_fields import ConfigFields
from . import ops
from .blocks import Transformer
from .clip_vision import EncodedImage
from .layers import Attention, LayerNorm, Linear
from .unet import UNet

BASE, FULL, PLUS = "base", "full", "plus"
_EPS = 1e-5


@dataclass(frozen=True)
class IPAdapterConfig:
    """An IP-Adapter of one of three kinds: BASE projects one vector, FULL every token, PLUS resamples the tokens."""

    kind: str
    inputs: int  # width of what the image encoder gives
    context: int  # width of the tokens, which is that of the prompts
    tokens: int  # of an image; of FULL as many as the encoder has
    hidden: int  # of PLUS
    heads: int
    layers: int
    attentions: tuple[int, ...]  # widths of the UNet's cross-attentions: of the way down, then up, then the middle

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "ip_adapter") -> "IPAdapterConfig":
        """Reads the config that `convert` derives from the shapes of weights."""
        f = ConfigFields(values, where)
        kind = f.only("kind", BASE, FULL, PLUS)
        names = ("inputs", "context", "tokens", "hidden", "heads", "layers")
        numbers: dict[str, int] = {name: f.require(name) for name in names}
        config = cls(kind=kind, attentions=tuple(f.require("attentions")), **numbers)
        f.done()
        return config


class IPAdapter(nn.Module):
    """Makes tokens of an encoded image, and keys and values of them for each cross-attention of a UNet."""

    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        self.config = config
        kinds: dict[str, Callable[[IPAdapterConfig], nn.Module]] = {
            BASE: Projection,
            FULL: FullProjection,
            PLUS: Resampler,
        }
        self.projection = kinds[config.kind](config)
        self.keys_of = [Linear(config.context, width, bias=False) for width in config.attentions]
        self.values_of = [Linear(config.context, width, bias=False) for width in config.attentions]

    @property
    def names(self) -> dict[str, str]:
        """Returns this network's layers -> their names in a file."""
        names = {f"projection.{layer}": f"image_proj.{name}" for layer, name in self.projection.names.items()}
        for i in range(len(self.keys_of)):
            number = 2 * i + 1  # in the file, self-attentions are counted too
            names[f"keys_of.{i}"] = f"ip_adapter.{number}.to_k_ip"
            names[f"values_of.{i}"] = f"ip_adapter.{number}.to_v_ip"
        return names

    @property
    def dtype(self) -> mx.Dtype:
        """Returns the dtype of the weights."""
        dtype: mx.Dtype = self.keys_of[0].weight.dtype
        return dtype

    @property
    def reads_tokens(self) -> bool:
        """Returns whether it sees all tokens of the image encoder, and not one vector."""
        return self.config.kind != BASE

    def tokens(self, encoded: EncodedImage) -> mx.array:
        """Returns the tokens (N, T, context) of encoded images."""
        features = encoded.penultimate if self.reads_tokens else encoded.embedding
        tokens: mx.array = self.projection(features.astype(self.dtype))
        return tokens


class Projection(nn.Module):
    """One vector (N, inputs) -> tokens (N, tokens, context)."""

    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        self.shape = (config.tokens, config.context)
        self.linear, self.norm = Linear(config.inputs, config.tokens * config.context), LayerNorm(config.context, _EPS)
        self.names = {"linear": "proj", "norm": "norm"}

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the tokens."""
        return self.norm(self.linear(x).reshape(x.shape[0], *self.shape))


class FullProjection(nn.Module):
    """Tokens of the encoder (N, T, inputs) -> as many tokens (N, T, context)."""

    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        self.fc1, self.fc2 = Linear(config.inputs, config.inputs), Linear(config.inputs, config.context)
        self.norm = LayerNorm(config.context, _EPS)
        self.names = {"fc1": "proj.0", "fc2": "proj.2", "norm": "proj.3"}

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the tokens."""
        return self.norm(self.fc2(ops.gelu(self.fc1(x))))


class Resampler(nn.Module):
    """Tokens of the encoder (N, T, inputs) -> a fixed number of tokens (N, tokens, context) (Alayrac et al. 2022)."""

    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        self.latents = mx.zeros((1, config.tokens, config.hidden))
        self.proj_in, self.proj_out = Linear(config.inputs, config.hidden), Linear(config.hidden, config.context)
        self.norm_out = LayerNorm(config.context, _EPS)
        self.layers = [ResamplerLayer(config.hidden, config.heads) for _ in range(config.layers)]
        self.names = {"latents": "latents", "proj_in": "proj_in", "proj_out": "proj_out", "norm_out": "norm_out"}
        for i in range(config.layers):
            self.names |= {f"layers.{i}.{part}": f"layers.{i}.{name}" for part, name in _LAYER.items()}

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the tokens."""
        x = self.proj_in(x)
        latents = mx.broadcast_to(self.latents, (x.shape[0], *self.latents.shape[1:]))
        for layer in self.layers:
            latents = layer(x, latents)
        return self.norm_out(self.proj_out(latents))


# Layers of a ResamplerLayer -> their names in a file; `convert` takes the stacked keys and values apart.
_LAYER = {
    "norm_x": "0.norm1",
    "norm": "0.norm2",
    "attention.q": "0.to_q",
    "attention.k": "0.to_k",
    "attention.v": "0.to_v",
    "attention.out": "0.to_out",
    "norm_up": "1.0",
    "up": "1.1",
    "down": "1.3",
}


class ResamplerLayer(nn.Module):
    """Latents attend to the image's tokens and to themselves, then pass a feed-forward; both are residual."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm_x, self.norm, self.norm_up = (LayerNorm(width, _EPS) for _ in range(3))
        self.attention = Attention(width, width, heads, out_bias=False)
        self.up, self.down = Linear(width, 4 * width, bias=False), Linear(4 * width, width, bias=False)

    def __call__(self, x: mx.array, latents: mx.array) -> mx.array:
        """Returns the latents (N, tokens, width) that have seen x (N, T, width)."""
        queries = self.norm(latents)
        latents = latents + self.attention(queries, mx.concatenate([self.norm_x(x), queries], axis=1))
        return latents + self.down(ops.gelu(self.up(self.norm_up(latents))))


def cross_attentions(unet: UNet) -> list[tuple[str, Attention]]:
    """Returns the cross-attentions of a UNet in the order of IP-Adapters: down, up, middle.

    Each has the name of the transformer that it is in: (down|up).block_LEVEL.NUMBER, or mid.
    """
    attentions = []
    for path, module in (("down", unet.down), ("up", unet.up), ("mid", unet.middle)):
        stages = [module.layers] if path == "mid" else module.stages
        for i, stage in enumerate(stages):
            for j, layer in enumerate(stage):
                if isinstance(layer, Transformer):
                    place = f"layers.{j}" if path == "mid" else f"stages.{i}.{j}"
                    label = _label(module.names[place])
                    attentions += [(label, block.attn2) for block in layer.blocks]
    return attentions


def _label(name: str) -> str:
    """Returns our name of a transformer by diffusers': up_blocks.0.attentions.1 is up.block_0.1."""
    parts = name.split(".")
    return "mid" if parts[0] == "mid_block" else f"{parts[0].partition('_')[0]}.block_{parts[1]}.{parts[3]}"
