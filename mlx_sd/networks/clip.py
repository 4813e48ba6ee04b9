"""CLIP's text encoder, OpenAI's and OpenCLIP's (transformers' CLIPTextModel and CLIPTextModelWithProjection)."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

import mlx.core as mx
import mlx.nn as nn

from . import ops
from .configs import TextConfig
from .layers import Attention, LayerNorm, Linear

_ACTIVATIONS = {"quick_gelu": ops.quick_gelu, "gelu": ops.gelu}
_MASKED = -1e4  # exp of it is 0 in every dtype; -inf is not representable in what Core ML runs
_LEGACY_EOS = 2  # eos_token_id in old configs, where it is not the id of the end token


class Encoded(NamedTuple):
    """The features that a text encoder computes for token ids (B, tokens)."""

    hidden: list[mx.array]  # (B, tokens, width) before the first layer and after each
    last: mx.array  # (B, tokens, width): the last of `hidden`, normalised
    pooled: mx.array  # (B, width or projection): `last` at the end token, projected where the model has a projection


class TextEncoder(nn.Module):
    """A causal transformer over token ids (Radford et al. 2021)."""

    names: ClassVar[Mapping[str, str]] = {  # layers -> their names in a checkpoint
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

    def __call__(self, ids: mx.array, *, embedded: mx.array | None = None, visible: mx.array | None = None) -> Encoded:
        """Encodes token ids (B, tokens), each row ending in the end token and its padding.

        embedded: (B, tokens, width) in the place of the tokens' own embeddings; the end token is looked for among the
        ids all the same. visible: (B, tokens), which tokens may be attended to; None is all.
        """
        tokens = ids.shape[1]
        x = (self.token_embedding(ids) if embedded is None else embedded) + self.position_embedding.weight[:tokens]
        mask = mx.triu(mx.full((tokens, tokens), _MASKED, dtype=x.dtype), k=1)
        if visible is not None:
            mask = mask + mx.where(visible, 0, _MASKED).astype(x.dtype)[:, None, None, :]
        hidden = [x]
        for layer in self.layers:
            hidden.append(x := layer(x, mask))
        last = self.norm(x)
        pooled = last[mx.arange(ids.shape[0]), self._end(ids)]
        return Encoded(hidden, last, self.projection(pooled) if "projection" in self else pooled)

    def _end(self, ids: mx.array) -> mx.array:
        # Position (B,) of the first end token. Under the legacy id it is the largest id of the vocabulary.
        legacy = self.config.eos == _LEGACY_EOS
        return mx.argmax(ids if legacy else ids == self.config.eos, axis=1)


class LayerConfig(Protocol):
    """The fields of a config that a layer reads: a text encoder's, or an image encoder's."""

    @property
    def width(self) -> int:
        """Returns the width of tokens."""
        ...

    @property
    def hidden(self) -> int:
        """Returns the width inside the feed-forward."""
        ...

    @property
    def heads(self) -> int:
        """Returns the number of heads."""
        ...

    @property
    def activation(self) -> str:
        """Returns the name of the activation."""
        ...

    @property
    def eps(self) -> float:
        """Returns the epsilon of the norms."""
        ...


class Layer(nn.Module):
    """One transformer layer, normalised before its attention and before its feed-forward; both are residual."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation]
        self.norm1 = LayerNorm(config.width, config.eps)
        self.attention = Attention(config.width, config.width, config.heads, bias=True)
        self.norm2 = LayerNorm(config.width, config.eps)
        self.fc1, self.fc2 = Linear(config.width, config.hidden), Linear(config.hidden, config.width)

    def __call__(self, x: mx.array, mask: mx.array | None = None) -> mx.array:
        """Returns (B, tokens, width) of x, of the same shape; mask (..., tokens, tokens) is added to scores."""
        y = self.norm1(x)
        x = x + self.attention(y, y, mask)
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))
