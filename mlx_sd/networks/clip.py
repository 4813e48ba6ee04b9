"""CLIP's text encoder, of OpenAI's and OpenCLIP's kind (CLIPTextModel, CLIPTextModelWithProjection)."""

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from . import ops
from .configs import TextConfig
from .layers import Attention, LayerNorm, Linear

_ACTIVATIONS = {"quick_gelu": ops.quick_gelu, "gelu": ops.gelu}
_MASKED = -1e4  # exp of it is 0 in every dtype; -inf is not representable in what Core ML runs
_LEGACY_EOS = 2  # what old configs say instead of the true id


class Encoded(NamedTuple):
    """What a text encoder knows of a text."""

    hidden: list[mx.array]  # before the first layer and after each: (B, tokens, width)
    last: mx.array  # the last of them, normalised
    pooled: mx.array  # (B, width or projection): the end token's


class TextEncoder(nn.Module):
    """Token ids (B, tokens) -> hidden states; causal, as CLIP was trained."""

    names = {  # noqa: RUF012 - a constant
        "token_embedding": "embeddings.token_embedding",
        "position_embedding": "embeddings.position_embedding",
        "layers": "encoder.layers",
        "norm": "final_layer_norm",
        "projection": "text_projection",
    }

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.tokens, config.width)
        self.layers = [Layer(config) for _ in range(config.layers)]
        self.norm = LayerNorm(config.width, config.eps)
        if config.projection:
            self.projection = Linear(config.width, config.projection, bias=False)

    def __call__(self, ids: mx.array) -> Encoded:
        tokens = ids.shape[1]
        x = self.token_embedding(ids) + self.position_embedding.weight[:tokens]
        mask = mx.triu(mx.full((tokens, tokens), _MASKED, dtype=x.dtype), k=1)
        hidden = [x]
        for layer in self.layers:
            hidden.append(x := layer(x, mask))
        last = self.norm(x)
        pooled = last[mx.arange(ids.shape[0]), self._end(ids)]
        return Encoded(hidden, last, self.projection(pooled) if "projection" in self else pooled)

    def _end(self, ids: mx.array) -> mx.array:
        legacy = self.config.eos == _LEGACY_EOS
        return mx.argmax(ids if legacy else ids == self.config.eos, axis=1)


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation]
        self.norm1 = LayerNorm(config.width, config.eps)
        self.attention = Attention(config.width, config.width, config.heads, bias=True)
        self.norm2 = LayerNorm(config.width, config.eps)
        self.fc1, self.fc2 = Linear(config.width, config.hidden), Linear(config.hidden, config.width)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        y = self.norm1(x)
        x = x + self.attention(y, y, mask)
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))
