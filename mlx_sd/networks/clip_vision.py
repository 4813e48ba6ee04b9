"""CLIP's image encoder, OpenAI's and OpenCLIP's (transformers' CLIPVisionModelWithProjection)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..core.config_fields import ConfigFields
from . import ops
from .clip import Layer
from .layers import Conv, LayerNorm, Linear

CLASS = "CLIPVisionModelWithProjection"


@dataclass(frozen=True)
class VisionConfig:
    """A CLIPVisionModelWithProjection. The fields that `Layer` reads are those of a text encoder's config."""

    image_size: int  # pixels a side of the images that it sees
    patch: int  # pixels a side of what becomes a token
    width: int
    hidden: int  # width inside the feed-forwards
    layers: int
    heads: int
    activation: str  # "quick_gelu" or "gelu"
    eps: float
    projection: int  # width of the projected output

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "image_encoder/config.json") -> "VisionConfig":
        """Reads a CLIP vision config; InputError names a class or field that is missing or not supported."""
        f = ConfigFields(values, where)
        architectures = f.take("architectures") or [CLASS]
        if architectures[0] != CLASS:
            raise f.unsupported("architectures", architectures[0], (CLASS,))
        config = cls(
            image_size=f.take("image_size", 224),
            patch=f.take("patch_size", 32),
            width=f.take("hidden_size", 768),
            hidden=f.take("intermediate_size", 3072),
            layers=f.take("num_hidden_layers", 12),
            heads=f.take("num_attention_heads", 12),
            activation=f.only("hidden_act", "quick_gelu", "gelu"),
            eps=f.take("layer_norm_eps", 1e-5),
            projection=f.take("projection_dim", 512),
        )
        f.only("model_type", "clip_vision_model")
        f.only("num_channels", 3)
        f.ignore(_IGNORED)
        f.done()
        return config


# Training, and bookkeeping of transformers
_IGNORED = (
    *("attention_dropout", "dropout", "dtype", "gradient_checkpointing", "initializer_factor", "initializer_range"),
    *("output_attentions", "output_hidden_states", "return_dict", "torch_dtype", "transformers_version", "use_cache"),
)


class EncodedImage(NamedTuple):
    """What an image encoder makes of images."""

    penultimate: mx.array  # (N, tokens, width): before the last layer
    embedding: mx.array  # (N, projection): of the first token, after the last layer


class ImageEncoder(nn.Module):
    """A transformer over patches of an image (Radford et al. 2021)."""

    names: ClassVar[Mapping[str, str]] = {  # layers -> their names in a checkpoint
        "first": "vision_model.embeddings.class_embedding",
        "patches": "vision_model.embeddings.patch_embedding",
        "position_embedding": "vision_model.embeddings.position_embedding",
        "norm_in": "vision_model.pre_layrnorm",
        "layers": "vision_model.encoder.layers",
        "norm": "vision_model.post_layernorm",
        "projection": "visual_projection",
    }

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.first = mx.zeros((config.width,))
        self.patches = Patches(config)
        tokens = 1 + (config.image_size // config.patch) ** 2
        self.position_embedding = nn.Embedding(tokens, config.width)
        self.norm_in, self.norm = LayerNorm(config.width, config.eps), LayerNorm(config.width, config.eps)
        self.layers = [Layer(config) for _ in range(config.layers)]
        self.projection = Linear(config.width, config.projection, bias=False)

    @property
    def dtype(self) -> mx.Dtype:
        """Returns the dtype of the weights."""
        dtype: mx.Dtype = self.projection.weight.dtype
        return dtype

    def __call__(self, pixels: mx.array) -> EncodedImage:
        """Encodes normalised pixels (N, image_size, image_size, 3)."""
        tokens = self.patches(pixels.astype(self.dtype)).reshape(pixels.shape[0], -1, self.config.width)
        first = mx.broadcast_to(self.first, (pixels.shape[0], 1, self.config.width))
        x = self.norm_in(mx.concatenate([first, tokens], axis=1) + self.position_embedding.weight)
        for layer in self.layers[:-1]:
            x = layer(x)
        last = self.norm(self.layers[-1](x)[:, 0])
        return EncodedImage(x, self.projection(last))


class Patches(Conv):
    """A convolution whose kernels touch each other, pixels (N, H, W, 3) -> (N, H / patch, W / patch, width)."""

    def __init__(self, config: VisionConfig):
        super().__init__(3, config.width, kernel=config.patch, stride=config.patch, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the features of pixels."""
        return ops.conv2d(x, self.weight, None, stride=self.stride[0], padding=0)
