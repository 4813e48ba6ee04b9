"""What a union of control networks (ControlNet++, xinsir 2024) has beside one: an embedding of what its image shows.

One network is trained on several kinds of images, its modes. The mode is added to the embedded image, through a
transformer block, and to the embedding of the timestep.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from . import ops
from .control_config import ControlConfig
from .embeddings import EmbeddingMLP, sinusoids
from .layers import LayerNorm, Linear


class ValueBlock(nn.Module):
    """A transformer block of one token, which attends to itself alone: its attention is the projection of its value.

    The authors' code attends over the pictures of a batch and never over the tokens of one. All rows of a batch have
    one control image here, and there both are the same.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.value, self.out = LayerNorm(width), Linear(width, width), Linear(width, width)
        self.norm2, self.up, self.down = LayerNorm(width), Linear(width, 4 * width), Linear(4 * width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the token (N, 1, C) of a token (N, 1, C)."""
        x = x + self.out(self.value(self.norm1(x)))
        return x + self.down(ops.quick_gelu(self.up(self.norm2(x))))


class Modes(nn.Module):
    """The modes of a union: each changes the embedded image, and the embedding of the timestep."""

    def __init__(self, config: ControlConfig):
        super().__init__()
        width = config.unet.channels
        self.config = config
        self.tasks = mx.zeros((config.modes, width))
        self.blocks = [ValueBlock(width) for _ in range(config.mode_layers)]
        self.proj = Linear(width, width)
        self.timestep = EmbeddingMLP(config.modes * (config.unet.added_time_dims or 0), config.unet.embedding)

    @property
    def names(self) -> dict[str, str]:
        """Returns the layers -> their names in a diffusers checkpoint."""
        names = {"tasks": "task_embedding", "proj": "spatial_ch_projs", "timestep": "control_add_embedding"}
        inside = {
            "norm1": "ln_1",
            "value": "attn.v_proj",  # split off the projection of all three while the file is read
            "out": "attn.out_proj",
            "norm2": "ln_2",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        }
        for i in range(len(self.blocks)):
            names |= {f"blocks.{i}.{layer}": f"transformer_layes.{i}.{name}" for layer, name in inside.items()}
        return names

    def of_image(self, features: mx.array, mode: int, scale: float = 1.0) -> mx.array:
        """Returns the embedded image (N, h, w, C) with the mode in it.

        scale: of one image among several that the union sees at once, whose sum it takes.
        """
        token = ops.image_mean(features)[:, 0] + self.tasks[mode]
        token = token if scale == 1 else token * scale
        for block in self.blocks:
            token = block(token)
        embedded = features + self.proj(token)[:, None]
        return embedded if scale == 1 else embedded * scale

    def of_timestep(self, modes: Sequence[int], dtype: mx.Dtype) -> mx.array:
        """Returns what is added to the embedding of every timestep, (1, E), where images of these modes are seen."""
        unet = self.config.unet
        switches = mx.array([number in modes for number in range(self.config.modes)])
        waves = sinusoids(switches, unet.added_time_dims or 0, unet.flip_sin_to_cos, unet.freq_shift)
        return self.timestep(waves.reshape(1, -1).astype(dtype))
