"""The denoising UNet of Stable Diffusion (UNet2DConditionModel), channel-last, with DeepCache in its call.

inputs[0] ──────────── skip ────────────▶ outputs[-1] ─▶ prediction
  inputs[1] ────────── skip ──────────▶ outputs[-2]
    ...                                 ...             the outer `depth` levels always run;
      inputs[-1] ───── skip ──▶ outputs[0]              what lies under them, `deep`, is computed
                middle                                  unless the caller hands it in
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from . import ops
from .config import Block, UNetConfig
from .errors import InputError
from .layers import Attention, Conv, GroupNorm, LayerNorm, Linear

# Features of the levels under the cut, or none; or what gives either for the last output above the cut.
Deep = mx.array | Callable[[mx.array], mx.array | None] | None
# How the image and a skip, with its number as DeepCache's branches count, become what the next stage is given.
Join = Callable[[mx.array, mx.array, int], mx.array]
# How a transformer's attention, over the image or over the prompt, is applied to x (B, N, C) and what it looks at.
Attend = Callable[[Attention, mx.array, mx.array], mx.array]


def concatenate(x: mx.array, skip: mx.array, number: int) -> mx.array:
    """The join of the UNet as it was trained."""
    return mx.concatenate([x, skip], axis=-1)


def apply(layer: Attention, x: mx.array, context: mx.array) -> mx.array:
    """Attention as the UNet was trained with it."""
    return layer(x, context)


class Given(NamedTuple):
    """What every layer may look at beside the image."""

    embedding: mx.array  # (B, E): time and what the model adds to it, activated
    context: mx.array  # (B, tokens, C): the prompt
    attend: Attend = apply
    size: tuple[int, ...] | None = None  # (height, width) of the skip that comes next


class UNet(nn.Module):
    """Predicts noise (or v) in latents; `names` gives each layer's name in a diffusers checkpoint."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        first, embedding = config.channels, config.embedding
        self.time = TimeEmbedding(first, embedding, config.guidance_dims)
        if config.class_embedding:
            self.classes = _class_embedding(config)
        if config.added_time_dims:
            self.added = TimeEmbedding(config.added_inputs, embedding)
        self._build()
        self.norm = GroupNorm(first, config.groups, config.eps)
        self.conv = Conv(first, config.out_channels)

    def _build(self) -> None:
        config = self.config
        names = {"time": "time_embedding", "classes": "class_embedding", "added": "add_embedding"}
        names |= {"norm": "conv_norm_out", "conv": "conv_out", "inputs.0.0.conv": "conv_in"}
        self.inputs: list[list[nn.Module]] = [[In(config.in_channels, config.channels)]]
        self.middle: list[nn.Module] = []
        self.outputs: list[list[nn.Module]] = []
        width, skips = config.channels, [config.channels]

        def stage(side: str, place: int, block: Block, name: str, i: int, inputs: int) -> list[nn.Module]:
            layers: list[nn.Module] = [ResBlock(inputs, block.channels, config)]
            names[f"{side}.{place}.0"] = f"{name}.resnets.{i}"
            if block.transformers:
                layers.append(Transformer(block, block.transformers[i], config.groups))
                names[f"{side}.{place}.1"] = f"{name}.attentions.{i}"
            return layers

        for level, block in enumerate(config.down):
            name = f"down_blocks.{level}"
            for i in range(block.resnets):
                self.inputs.append(stage("inputs", len(self.inputs), block, name, i, width))
                skips.append(width := block.channels)
            if level + 1 < len(config.down):
                names[f"inputs.{len(self.inputs)}.0"] = f"{name}.downsamplers.0"
                self.inputs.append([Down(width)])
                skips.append(width)

        if config.mid:
            self.middle = [ResBlock(width, config.mid.channels, config)]
            names["middle.0"] = "mid_block.resnets.0"
            if config.mid.transformers:
                self.middle += [Transformer(config.mid, config.mid.transformers[0], config.groups)]
                self.middle += [ResBlock(width, width, config)]
                names |= {"middle.1": "mid_block.attentions.0", "middle.2": "mid_block.resnets.1"}

        for level, block in enumerate(config.up):
            name = f"up_blocks.{level}"
            for i in range(block.resnets):
                place = len(self.outputs)
                self.outputs.append(stage("outputs", place, block, name, i, width + skips.pop()))
                width = block.channels
            if level + 1 < len(config.up):
                names[f"outputs.{place}.{len(self.outputs[-1])}"] = f"{name}.upsamplers.0"
                self.outputs[-1].append(Up(width))
        self._names = names

    @property
    def names(self) -> dict[str, str]:
        """This network's layers -> their names in a diffusers checkpoint."""
        return self._names

    @property
    def branches(self) -> Sequence[int]:
        """The DeepCache branches there are: 0 keeps all but one level, the last only the middle."""
        return range(len(self.inputs))

    def __call__(
        self,
        x: mx.array,
        t: mx.array,
        context: mx.array,
        *,
        text_embeds: mx.array | None = None,
        time_ids: mx.array | None = None,
        class_labels: mx.array | None = None,
        timestep_cond: mx.array | None = None,
        deep: Deep = None,
        depth: int = 1,
        join: Join = concatenate,
        attend: Attend = apply,
    ) -> tuple[mx.array, mx.array]:
        """One denoising pass: (prediction, deep).

        x: (B, h, w, in_channels); t: a number, () or (B,) training timesteps; context: (B, tokens, C). SDXL takes
        text_embeds (B, P) and time_ids (B, 5 or 6); class-conditional networks class_labels (B,); LCM timestep_cond
        (B, guidance_dims). The outer `depth` levels always run; `deep`, the features that the levels under them gave,
        is computed unless it is handed in, so that a cached and a full pass on the same inputs agree bit for bit.
        A function is asked for it with the last output above the cut, and may give None, too.
        depth = DeepCache branch + 1 (Ma et al. 2023, sec. 3). `join` is called for every skip (FreeU changes it),
        `attend` for every attention of a transformer (T-GATE changes it).
        """
        embedding = self._embed(x, t, text_embeds, time_ids, class_labels, timestep_cond)
        given = Given(embedding, context.astype(x.dtype), attend)
        skips: list[mx.array] = []
        x = _descend(x, self.inputs[:depth], given, skips)
        if callable(deep):
            deep = deep(x)
        if deep is None:
            y = _descend(x, self.inputs[depth:], given, skips)
            deep = _ascend(_run(y, self.middle, given), self.outputs[:-depth], given, skips, join)
        x = _ascend(deep, self.outputs[-depth:], given, skips, join)
        return self.conv(ops.silu(self.norm(x))), deep

    def _embed(
        self,
        x: mx.array,
        t: mx.array,
        text_embeds: mx.array | None,
        time_ids: mx.array | None,
        class_labels: mx.array | None,
        timestep_cond: mx.array | None,
    ) -> mx.array:
        batch, config = x.shape[0], self.config
        embedding = self.time(self._waves(mx.broadcast_to(mx.array(t), (batch,)), x.dtype), timestep_cond)
        if config.class_embedding:
            if class_labels is None:
                raise InputError("this UNet is class-conditional: it needs class_labels")
            timestep = config.class_embedding == "timestep"
            labels = self._waves(class_labels, x.dtype) if timestep else class_labels
            embedding = embedding + self.classes(labels).astype(x.dtype)
        if config.added_time_dims:
            if text_embeds is None or time_ids is None:
                raise InputError("this UNet is of the SDXL kind: it needs text_embeds and time_ids")
            sizes = _waves(time_ids.reshape(-1), config.added_time_dims, config).reshape(batch, -1)
            added = mx.concatenate([text_embeds.astype(x.dtype), sizes.astype(x.dtype)], axis=-1)
            if added.shape[1] != config.added_inputs:
                raise InputError(
                    f"text_embeds {text_embeds.shape} and time_ids {time_ids.shape} make {added.shape[1]} features, "
                    f"this UNet takes {config.added_inputs}"
                )
            embedding = embedding + self.added(added)
        return ops.silu(embedding)  # once, for every ResBlock begins with it

    def _waves(self, t: mx.array, dtype: mx.Dtype) -> mx.array:
        return _waves(t, self.config.channels, self.config).astype(dtype)


class TimeEmbedding(nn.Module):
    """Two linears around a silu, on sinusoids of the time and, where a model takes it, an embedded guidance scale."""

    def __init__(self, inputs: int, outputs: int, guidance: int | None = None):
        super().__init__()
        self.linear1, self.linear2 = Linear(inputs, outputs), Linear(outputs, outputs)
        if guidance:
            self.guidance = Linear(guidance, inputs, bias=False)

    def __call__(self, x: mx.array, guidance: mx.array | None = None) -> mx.array:
        if guidance is not None:
            x = x + self.guidance(guidance.astype(x.dtype))
        return self.linear2(ops.silu(self.linear1(x)))


class ResBlock(nn.Module):
    """Two convolutions with the embedding added, or applied as scale and shift, between them."""

    def __init__(self, inputs: int, outputs: int, config: UNetConfig):
        super().__init__()
        self.scale_shift = config.scale_shift
        self.norm1, self.conv1 = GroupNorm(inputs, config.groups, config.eps), Conv(inputs, outputs)
        self.embed = Linear(config.embedding, outputs * (2 if config.scale_shift else 1))
        self.norm2, self.conv2 = GroupNorm(outputs, config.groups, config.eps), Conv(outputs, outputs)
        if inputs != outputs:
            self.skip = Conv(inputs, outputs, kernel=1)

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        h = self.conv1(ops.silu(self.norm1(x)))
        e = self.embed(given.embedding)[:, None, None]
        if self.scale_shift:
            scale, shift = mx.split(e, 2, axis=-1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + e)
        return (self.skip(x) if "skip" in self else x) + self.conv2(ops.silu(h))


class Transformer(nn.Module):
    """Transformer blocks over the pixels of the image, around them a residual connection."""

    def __init__(self, block: Block, depth: int, groups: int):
        super().__init__()
        self.norm = GroupNorm(block.channels, groups, eps=1e-6)
        self.proj_in, self.proj_out = Linear(block.channels, block.channels), Linear(block.channels, block.channels)
        self.blocks = [TransformerBlock(block) for _ in range(depth)]

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        batch, height, width, channels = x.shape
        y = self.proj_in(self.norm(x).reshape(batch, height * width, channels))
        for block in self.blocks:
            y = block(y, given)
        return x + self.proj_out(y).reshape(x.shape)


class TransformerBlock(nn.Module):
    """Attention to the image, attention to the prompt, and a gated feed-forward."""

    def __init__(self, block: Block):
        super().__init__()
        dims = block.channels
        self.only_cross = block.only_cross
        self.norm1 = LayerNorm(dims)
        self.attn1 = Attention(dims, block.context if block.only_cross else dims, block.heads)
        self.norm2, self.attn2 = LayerNorm(dims), Attention(dims, block.context, block.heads)
        self.norm3, self.up, self.down = LayerNorm(dims), Linear(dims, 8 * dims), Linear(4 * dims, dims)

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        y = self.norm1(x)
        x = x + given.attend(self.attn1, y, given.context if self.only_cross else y)
        x = x + given.attend(self.attn2, self.norm2(x), given.context)
        y, gate = mx.split(self.up(self.norm3(x)), 2, axis=-1)
        return x + self.down(y * ops.gelu(gate))


class In(nn.Module):
    """The first convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = Conv(inputs, outputs)

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        return self.conv(x)


class Down(nn.Module):
    """Halves the size, rounding up."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, stride=2)

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        return self.conv(x)


class Up(nn.Module):
    """Doubles the size, to that of the skip that comes next."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels)

    def __call__(self, x: mx.array, given: Given) -> mx.array:
        x = ops.upsample(x)
        if given.size and given.size != x.shape[1:3]:  # an odd size was rounded up on the way down
            x = x[:, : given.size[0], : given.size[1]]
        return self.conv(x)


def _descend(x: mx.array, stages: list[list[nn.Module]], given: Given, skips: list[mx.array]) -> mx.array:
    for stage in stages:
        skips.append(x := _run(x, stage, given))
    return x


def _ascend(x: mx.array, stages: list[list[nn.Module]], given: Given, skips: list[mx.array], join: Join) -> mx.array:
    for stage in stages:
        x = join(x, skips.pop(), len(skips))
        x = _run(x, stage, given._replace(size=skips[-1].shape[1:3] if skips else None))
    return x


def _run(x: mx.array, stage: list[nn.Module], given: Given) -> mx.array:
    for layer in stage:
        x = layer(x, given)
    return x


def _waves(t: mx.array, dims: int, config: UNetConfig) -> mx.array:
    """Sinusoids (N, dims) of times (N,), in float32 (Ho et al. 2020, after Vaswani et al. 2017)."""
    half = dims // 2
    rates = mx.exp(-math.log(10000) * mx.arange(half, dtype=mx.float32) / (half - config.freq_shift))
    angles = t.astype(mx.float32)[:, None] * rates
    parts = [mx.cos(angles), mx.sin(angles)] if config.flip_sin_to_cos else [mx.sin(angles), mx.cos(angles)]
    return mx.concatenate(parts, axis=-1)


def _class_embedding(config: UNetConfig) -> nn.Module:
    if config.class_embedding == "table":
        return nn.Embedding(config.class_inputs, config.embedding)
    if config.class_embedding == "timestep":
        return TimeEmbedding(config.channels, config.embedding)
    if config.class_embedding == "projection":
        return TimeEmbedding(config.class_inputs, config.embedding)
    if config.class_embedding == "simple_projection":
        return Linear(config.class_inputs, config.embedding)
    return nn.Identity()
