"""Embeddings: sinusoids of numbers, and the one vector that conditions every residual block of the UNet."""

import math

import mlx.core as mx
import mlx.nn as nn

from ..core.errors import InputError
from . import ops
from .layers import Linear
from .unet_config import UNetConfig

_LONGEST_WAVE = 10000  # the lowest frequency is about one over this (Vaswani et al. 2017, sec. 3.5)


def sinusoids(values: mx.array, width: int, cosine_first: bool = False, frequency_shift: int = 0) -> mx.array:
    """Returns the sinusoids (N, width) of values (N,) in float32, as Ho et al. 2020 embed timesteps.

    frequency i is 10000^(-i / (width / 2 - frequency_shift)). Sines fill one half of the row and cosines the other;
    cosine_first puts the cosines into the first half.
    """
    half = width // 2
    frequencies = mx.exp(-math.log(_LONGEST_WAVE) * mx.arange(half, dtype=mx.float32) / (half - frequency_shift))
    angles = values.astype(mx.float32)[:, None] * frequencies
    sines, cosines = mx.sin(angles), mx.cos(angles)
    return mx.concatenate([cosines, sines] if cosine_first else [sines, cosines], axis=-1)


class EmbeddingMLP(nn.Module):
    """Two linear layers with a SiLU between them: features (B, inputs) -> embedding (B, outputs).

    guidance: width of the embedded guidance scale that a latent consistency model adds to its features, or None.
    """

    def __init__(self, inputs: int, outputs: int, guidance: int | None = None):
        super().__init__()
        self.linear1, self.linear2 = Linear(inputs, outputs), Linear(outputs, outputs)
        if guidance:
            self.guidance = Linear(guidance, inputs, bias=False)

    def __call__(self, features: mx.array, guidance: mx.array | None = None) -> mx.array:
        """Returns the embedding (B, outputs) of features (B, inputs), in their dtype."""
        if guidance is not None:
            features = features + self.guidance(guidance.astype(features.dtype))
        return self.linear2(ops.silu(self.linear1(features)))


class UNetEmbedding(nn.Module):
    """The vector that every residual block adds: the timestep and, by config, a class or SDXL's text and sizes."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        self.timestep = EmbeddingMLP(config.channels, config.embedding, config.guidance_dims)
        if config.class_embedding:
            self.classes = class_embedding(config)
        if config.added_time_dims:
            self.added = EmbeddingMLP(config.added_inputs, config.embedding)

    @property
    def names(self) -> dict[str, str]:
        """Returns this module's layers -> their names in a diffusers checkpoint."""
        return {"timestep": "time_embedding", "classes": "class_embedding", "added": "add_embedding"}

    def __call__(
        self,
        t: mx.array,
        dtype: mx.Dtype,
        text_embeds: mx.array | None = None,
        time_ids: mx.array | None = None,
        class_labels: mx.array | None = None,
        timestep_cond: mx.array | None = None,
        mode: mx.array | None = None,
    ) -> mx.array:
        """Returns the embedding (B, E), already through the SiLU that every residual block begins with.

        t: timesteps (B,); dtype: of the weights. mode: (1, E), added to it (`Modes`). The others are as
        `UNet.__call__` takes them; InputError where one that the config asks for is missing or has the wrong width.
        """
        config = self.config
        embedding = self.timestep(self._sinusoids(t, config.channels).astype(dtype), timestep_cond)
        if mode is not None:
            embedding = embedding + mode
        if config.class_embedding:
            if class_labels is None:
                raise InputError("this UNet is class-conditional: it needs class_labels")
            if config.class_embedding == "timestep":
                class_labels = self._sinusoids(class_labels, config.channels).astype(dtype)
            embedding = embedding + self.classes(class_labels).astype(dtype)
        if config.added_time_dims:
            if text_embeds is None or time_ids is None:
                raise InputError("this UNet is of the SDXL kind: it needs text_embeds and time_ids")
            sizes = self._sinusoids(time_ids.reshape(-1), config.added_time_dims).reshape(t.shape[0], -1)
            features = mx.concatenate([text_embeds.astype(dtype), sizes.astype(dtype)], axis=-1)
            if features.shape[1] != config.added_inputs:
                raise InputError(
                    f"text_embeds {text_embeds.shape} and time_ids {time_ids.shape} make {features.shape[1]} features, "
                    f"this UNet takes {config.added_inputs}"
                )
            embedding = embedding + self.added(features)
        return ops.silu(embedding)

    def _sinusoids(self, values: mx.array, width: int) -> mx.array:
        return sinusoids(values, width, self.config.flip_sin_to_cos, self.config.freq_shift)


def class_embedding(config: UNetConfig) -> nn.Module:
    """Returns the layer that embeds class labels; an identity where they come as embeddings (B, E) already."""
    if config.class_embedding == "table":
        return nn.Embedding(config.class_inputs, config.embedding)
    if config.class_embedding == "timestep":
        return EmbeddingMLP(config.channels, config.embedding)
    if config.class_embedding == "projection":
        return EmbeddingMLP(config.class_inputs, config.embedding)
    if config.class_embedding == "simple_projection":
        return Linear(config.class_inputs, config.embedding)
    return nn.Identity()
