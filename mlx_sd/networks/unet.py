"""The denoising UNet (UNet2DConditionModel and UNet2DModel), channel-last, with DeepCache in its call.

inputs[0] ──────────── skip ────────────▶ outputs[-1] ─▶ prediction
  inputs[1] ────────── skip ──────────▶ outputs[-2]
    ...                                 ...             the outer `depth` levels always run;
      inputs[-1] ───── skip ──▶ outputs[0]              what lies under them, `deep`, is computed
                middle                                  unless the caller hands it in
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn

from ..core.errors import InputError
from . import ops
from .blocks import (
    Attend,
    Down,
    Given,
    In,
    PlainAttention,
    ResBlock,
    TimeEmbedding,
    Transformer,
    Up,
    apply,
    class_embedding,
    halve,
    waves,
)
from .layers import Conv, GroupNorm
from .unet_config import Block, UNetConfig

# Features of the levels under the cut, or none; or what gives either for the last output above the cut.
Deep = mx.array | Callable[[mx.array], mx.array | None] | None
# How the image and a skip, with its number as DeepCache's branches count, become what the next stage is given.
Join = Callable[[mx.array, mx.array, int], mx.array]


def concatenate(x: mx.array, skip: mx.array, number: int) -> mx.array:
    """The join of the UNet as it was trained."""
    return mx.concatenate([x, skip], axis=-1)


class UNet(nn.Module):
    """Predicts noise (or v) in latents; `names` gives each layer's name in a diffusers checkpoint."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        first, embedding = config.channels, config.embedding
        self.time = TimeEmbedding(first, embedding, config.guidance_dims)
        if config.class_embedding:
            self.classes = class_embedding(config)
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

        def attention(block: Block, i: int, groups: int | None, place: str, name: str) -> list[nn.Module]:
            if not (block.transformers or block.plain):
                return []
            names[place] = name
            if block.transformers:
                return [Transformer(block, block.transformers[i], config.groups)]
            names[f"{place}.norm"] = f"{name}.group_norm"
            return [PlainAttention(block.channels, groups, config.eps, block.heads)]

        def stage(side: str, place: int, block: Block, name: str, i: int, inputs: int) -> list[nn.Module]:
            names[f"{side}.{place}.0"] = f"{name}.resnets.{i}"
            after = attention(block, i, config.groups, f"{side}.{place}.1", f"{name}.attentions.{i}")
            return [ResBlock(inputs, block.channels, config), *after]

        def down(block: Block) -> nn.Module:
            resnet = block.resnet_resampling
            return ResBlock(width, width, config, halve) if resnet else Down(width, config.asymmetric)

        def up(block: Block) -> nn.Module:
            return ResBlock(width, width, config, ops.upsample) if block.resnet_resampling else Up(width)

        for level, block in enumerate(config.down):
            name = f"down_blocks.{level}"
            for i in range(block.resnets):
                self.inputs.append(stage("inputs", len(self.inputs), block, name, i, width))
                skips.append(width := block.channels)
            if level + 1 < len(config.down):
                names[f"inputs.{len(self.inputs)}.0"] = f"{name}.downsamplers.0"
                self.inputs.append([down(block)])
                skips.append(width)

        if mid := config.mid:
            names["middle.0"] = "mid_block.resnets.0"
            after = attention(mid, 0, config.attention_groups, "middle.1", "mid_block.attentions.0")
            self.middle = [ResBlock(width, width, config), *after]
            if mid.resnets > 1:
                names[f"middle.{len(self.middle)}"] = "mid_block.resnets.1"
                self.middle.append(ResBlock(width, width, config))

        for level, block in enumerate(config.up):
            name = f"up_blocks.{level}"
            for i in range(block.resnets):
                place = len(self.outputs)
                self.outputs.append(stage("outputs", place, block, name, i, width + skips.pop()))
                width = block.channels
            if level + 1 < len(config.up):
                names[f"outputs.{place}.{len(self.outputs[-1])}"] = f"{name}.upsamplers.0"
                self.outputs[-1].append(up(block))
        self._names = names

    @property
    def names(self) -> dict[str, str]:
        """This network's layers -> their names in a diffusers checkpoint."""
        return self._names

    @property
    def dtype(self) -> mx.Dtype:
        """Of its weights."""
        dtype: mx.Dtype = self.conv.weight.dtype
        return dtype

    @property
    def branches(self) -> Sequence[int]:
        """The DeepCache branches there are: 0 keeps all but one level, the last only the middle."""
        return range(len(self.inputs))

    def __call__(
        self,
        x: mx.array,
        t: mx.array,
        context: mx.array | None = None,
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

        x: (B, h, w, in_channels); t: a number, () or (B,) training timesteps; context: (B, tokens, C), which a
        UNet2DModel does not take. SDXL takes text_embeds (B, P) and time_ids (B, 5 or 6); class-conditional networks
        class_labels (B,); LCM timestep_cond (B, guidance_dims). The outer `depth` levels always run; `deep`, the
        features that the levels under them gave, is computed unless it is handed in, so that a cached and a full pass
        on the same inputs agree bit for bit. A function is asked for it with the last output above the cut, and may
        give None, too.
        depth = DeepCache branch + 1 (Ma et al. 2023, sec. 3). `join` is called for every skip (FreeU changes it),
        `attend` for every attention of a transformer (T-GATE changes it).
        """
        embedding = self._embed(x, t, text_embeds, time_ids, class_labels, timestep_cond)
        if self.config.prompted != (context is not None):
            raise InputError(f"this UNet takes {'a' if self.config.prompted else 'no'} context")
        given = Given(embedding, None if context is None else context.astype(x.dtype), attend)
        skips: list[mx.array] = []
        if self.config.centred:
            x = 2 * x - 1
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
            sizes = waves(time_ids.reshape(-1), config.added_time_dims, config).reshape(batch, -1)
            added = mx.concatenate([text_embeds.astype(x.dtype), sizes.astype(x.dtype)], axis=-1)
            if added.shape[1] != config.added_inputs:
                raise InputError(
                    f"text_embeds {text_embeds.shape} and time_ids {time_ids.shape} make {added.shape[1]} features, "
                    f"this UNet takes {config.added_inputs}"
                )
            embedding = embedding + self.added(added)
        return ops.silu(embedding)  # once, for every ResBlock begins with it

    def _waves(self, t: mx.array, dtype: mx.Dtype) -> mx.array:
        return waves(t, self.config.channels, self.config).astype(dtype)


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
