"""The denoising UNet (diffusers' UNet2DConditionModel and UNet2DModel), channel-last, with DeepCache in its call.

    x ─▶ down.stages[0] ────────────── skip 0 ─────────────▶ up.stages[-1] ─▶ prediction
           down.stages[1] ──────────── skip 1 ───────────▶ up.stages[-2]
    ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ deep ─ ─ ─ ─ ─ ─   the cut, here at depth = 2
             down.stages[2] ────────── skip 2 ─────────▶ up.stages[-3]
               ...                                         ...
                 down.stages[-1] ───── skip n ───────▶ up.stages[0]
                                └────▶ middle ───────────┘

The levels above the cut run in every call. The levels below it run only where `deep`, the features that cross the cut
on the way up, is not handed in (DeepCache, Ma et al. 2023).

A stage is a list of layers: a residual block, the attention after it, and what changes the resolution. Stages are
counted as in the original code (CompVis' input_blocks and output_blocks), skips as DeepCache counts its branches. Both
paths and the middle exist on their own: a control network is a `DownPath` and a `Middle` of its own, whose outputs
become the UNet's `skip_residuals` and `middle_residual`.
"""

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn

from ..core.errors import InputError
from . import ops
from .blocks import (
    Attend,
    AttentionBlock,
    Conditioning,
    Downsample,
    InputConv,
    ResBlock,
    RunLayer,
    Transformer,
    Upsample,
    apply_attention,
    average_pool,
    run_layer,
)
from .embeddings import UNetEmbedding
from .layers import Conv, GroupNorm
from .unet_config import Block, UNetConfig

# The features below the cut (B, h', w', C), or None; or a function that returns either for the last output above it.
Deep = mx.array | Callable[[mx.array], mx.array | None] | None
# (x, skip, number of the skip) -> the input of the next stage up. Skips are numbered from 0, the first convolution's.
Join = Callable[[mx.array, mx.array, int], mx.array]
Stage = list[nn.Module]
NamedLayer = tuple[str, nn.Module]  # a layer after its name in a diffusers checkpoint


def concatenate(x: mx.array, skip: mx.array, number: int) -> mx.array:
    """Joins an image and a skip as the UNet was trained with them: (B, h, w, C + S)."""
    return mx.concatenate([x, skip], axis=-1)


class DownPath(nn.Module):
    """The way down: the first convolution, then for each level its residual blocks and a downsampling.

    The output of every stage is a skip; `UNetConfig.skip_channels` lists their widths.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        stages: list[list[NamedLayer]] = [[("conv_in", InputConv(config.in_channels, config.channels))]]
        width = config.channels
        for level, block in enumerate(config.down):
            name = f"down_blocks.{level}"
            for i in range(block.resnets):
                stages.append(_resnet_stage(name, i, width, block, config))
                width = block.channels
            if level + 1 < len(config.down):
                stages.append([(f"{name}.downsamplers.0", _downsampling(block, config))])
        self.stages: list[Stage] = [_layers(stage) for stage in stages]
        self._names = _names({f"stages.{i}": stage for i, stage in enumerate(stages)})

    @property
    def names(self) -> dict[str, str]:
        """Returns this path's layers -> their names in a diffusers checkpoint."""
        return self._names

    def __call__(
        self, x: mx.array, conditioning: Conditioning, start: int = 0, stop: int | None = None
    ) -> list[mx.array]:
        """Runs the stages from `start` to before `stop` (None: to the end) on x; returns their outputs, the skips.

        x: (B, h, w, C) with the channels that stage `start` takes. Skips: (B, h', w', C'), fine to coarse.
        """
        skips = []
        for number, stage in enumerate(self.stages[start:stop], start):
            x = _add(_run(stage, x, conditioning), conditioning.features.get(number))
            skips.append(x)
        return skips


class Middle(nn.Module):
    """The coarsest level: a residual block, and as the config says an attention and a second one; or no layers."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        layers: list[NamedLayer] = []
        if block := config.mid:
            width, groups = config.down[-1].channels, config.attention_groups
            layers.append(("mid_block.resnets.0", ResBlock(width, width, config)))
            layers += _attention("mid_block.attentions.0", block, 0, groups, config)
            if block.resnets > 1:
                layers.append(("mid_block.resnets.1", ResBlock(width, width, config)))
        self.layers: Stage = _layers(layers)
        self._names = _names({"layers": layers})

    @property
    def names(self) -> dict[str, str]:
        """Returns the middle's layers -> their names in a diffusers checkpoint."""
        return self._names

    def __call__(self, x: mx.array, conditioning: Conditioning) -> mx.array:
        """Returns the features (B, h, w, C) of the last skip (B, h, w, C)."""
        return _run(self.layers, x, conditioning)


class UpPath(nn.Module):
    """The way up: for each level its residual blocks, each on a skip joined to the features, and an upsampling."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        stages: list[list[NamedLayer]] = []
        width, skip_channels = config.down[-1].channels, list(config.skip_channels)
        for level, block in enumerate(config.up):
            name = f"up_blocks.{level}"
            for i in range(block.resnets):
                stages.append(_resnet_stage(name, i, width + skip_channels.pop(), block, config))
                width = block.channels
            if level + 1 < len(config.up):
                stages[-1].append((f"{name}.upsamplers.0", _upsampling(block, config)))
        self.stages: list[Stage] = [_layers(stage) for stage in stages]
        self._names = _names({f"stages.{i}": stage for i, stage in enumerate(stages)})

    @property
    def names(self) -> dict[str, str]:
        """Returns this path's layers -> their names in a diffusers checkpoint."""
        return self._names

    def __call__(
        self,
        x: mx.array,
        skips: Sequence[mx.array],
        conditioning: Conditioning,
        join: Join = concatenate,
        stop: int = 0,
    ) -> mx.array:
        """Runs the stages that join the last of `skips` down to skip number `stop`; returns the last one's output.

        x: (B, h, w, C), of the last skip's height and width. skips: fine to coarse, from skip 0 on.
        """
        for number in reversed(range(stop, len(skips))):
            size = skips[number - 1].shape[1:3] if number else None
            x = join(x, skips[number], number)
            x = _run(self.stages[-1 - number], x, conditioning._replace(skip_size=size))
        return x


class UNet(nn.Module):
    """Predicts the noise (or v, or the image) in latents."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        self.embedding = UNetEmbedding(config)
        self.down = DownPath(config)
        self.middle = Middle(config)
        self.up = UpPath(config)
        self.norm = GroupNorm(config.channels, config.groups, config.eps)
        self.conv = Conv(config.channels, config.out_channels)

    @property
    def names(self) -> dict[str, str]:
        """Returns this network's layers -> their names in a diffusers checkpoint."""
        parts = {"embedding": self.embedding, "down": self.down, "middle": self.middle, "up": self.up}
        inside = {f"{part}.{layer}": name for part, module in parts.items() for layer, name in module.names.items()}
        return inside | {"norm": "conv_norm_out", "conv": "conv_out"}

    @property
    def dtype(self) -> mx.Dtype:
        """Returns the dtype of the weights."""
        dtype: mx.Dtype = self.conv.weight.dtype
        return dtype

    @property
    def branches(self) -> Sequence[int]:
        """Returns the DeepCache branches of this UNet: 0 keeps all but one level, the last only the middle."""
        return range(len(self.down.stages))

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
        attend: Attend = apply_attention,
        run: RunLayer = run_layer,
        skip_residuals: Sequence[mx.array] | None = None,
        middle_residual: mx.array | None = None,
        features: Mapping[int, mx.array] | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Runs one evaluation of the network and returns (prediction, deep).

        x: latents (B, h, w, in_channels) in the weights' dtype. t: training timesteps, (B,) or one number for all.
        context: (B, tokens, C), for a UNet with transformers only. text_embeds (B, P) and time_ids (B, 5 or 6): SDXL's.
        class_labels (B,): of class-conditional networks. timestep_cond (B, guidance_dims): a latent consistency
        model's embedded guidance scale.

        deep: the features (B, h', w', C) that an earlier call returned; the levels below the outer `depth` ones are
        then not run, and a cached and a full call on the same inputs agree bit for bit. None runs all levels. A
        function is called with the last output above the cut and returns features or None. depth is the DeepCache
        branch + 1 (Ma et al. 2023, sec. 3).

        join: called for every skip (FreeU). attend: called for every attention of a transformer (T-GATE). run: called
        for every layer of a stage (training with less memory).

        skip_residuals: one array for each skip, of its shape, added where the skip is joined, on the way up only; a
        call with `deep` reads the first `depth` of them, so they act anew in every call. middle_residual: of the shape
        of the middle's output, added to it, and so a part of `deep`. Both are a control network's (Zhang et al. 2023).

        features: a T2I-Adapter's, by the number of the stage on the way down to whose output each is added, where they
        flow on (Mou et al. 2023); the number after the last stage is the middle's. A call with `deep` reads those of
        the outer `depth` stages.

        Returns the prediction (B, h, w, out_channels). InputError names an input that is missing or unexpected.
        """
        timesteps = mx.broadcast_to(mx.array(t), (x.shape[0],))
        embedding = self.embedding(timesteps, x.dtype, text_embeds, time_ids, class_labels, timestep_cond)
        if self.config.takes_context != (context is not None):
            raise InputError(f"this UNet takes {'a' if self.config.takes_context else 'no'} context")
        context = None if context is None else context.astype(x.dtype)
        conditioning = Conditioning(embedding, context, attend, run, features=features or {})
        if self.config.centers_input:
            x = 2 * x - 1

        skips = self.down(x, conditioning, stop=depth)
        if callable(deep):
            deep = deep(skips[-1])
        if deep is None:
            skips += self.down(skips[-1], conditioning, start=depth)
            y = _add(self.middle(skips[-1], conditioning), conditioning.features.get(len(self.down.stages)))
            y = _add(y, middle_residual)
            skips = add_residuals(skips, skip_residuals)
            deep = self.up(y, skips, conditioning, join, stop=depth)
        else:
            skips = add_residuals(skips, skip_residuals)
        y = self.up(deep, skips[:depth], conditioning, join)
        return self.conv(ops.silu(self.norm(y))), deep


def add_residuals(skips: list[mx.array], residuals: Sequence[mx.array] | None) -> list[mx.array]:
    """Adds to each skip its residual, in the skip's dtype; without residuals, returns the skips themselves.

    Residuals of stages that did not run are not read. InputError where there are fewer residuals than skips.
    """
    if residuals is None:
        return skips
    if len(residuals) < len(skips):
        raise InputError(f"skip_residuals has {len(residuals)} arrays for {len(skips)} skips; pass one for each skip")
    return [_add(skip, residual) for skip, residual in zip(skips, residuals, strict=False)]


def _add(x: mx.array, residual: mx.array | None) -> mx.array:
    return x if residual is None else x + residual.astype(x.dtype)


def _run(stage: Stage, x: mx.array, conditioning: Conditioning) -> mx.array:
    for layer in stage:
        x = conditioning.run(layer, x, conditioning)
    return x


def _resnet_stage(name: str, i: int, inputs: int, block: Block, config: UNetConfig) -> list[NamedLayer]:
    resnet = ResBlock(inputs, block.channels, config)
    attention = _attention(f"{name}.attentions.{i}", block, i, config.groups, config)
    return [(f"{name}.resnets.{i}", resnet), *attention]


def _attention(name: str, block: Block, i: int, groups: int | None, config: UNetConfig) -> list[NamedLayer]:
    """The attention after a level's residual block `i`, if any; `groups` are those of the norm before it."""
    if block.transformers:
        return [(name, Transformer(block, block.transformers[i], config.groups))]
    if block.self_attention:
        return [(name, AttentionBlock(block.channels, groups, config.eps, block.heads))]
    return []


def _downsampling(block: Block, config: UNetConfig) -> nn.Module:
    if block.resnet_resampling:
        return ResBlock(block.channels, block.channels, config, average_pool)
    return Downsample(block.channels, config.far_padded)


def _upsampling(block: Block, config: UNetConfig) -> nn.Module:
    if block.resnet_resampling:
        return ResBlock(block.channels, block.channels, config, ops.upsample)
    return Upsample(block.channels)


def _layers(named: Sequence[NamedLayer]) -> Stage:
    return [layer for _, layer in named]


def _names(stages: Mapping[str, Sequence[NamedLayer]]) -> dict[str, str]:
    """Parameter paths of layers -> checkpoint names; a layer's own `names` say where what is inside differs."""
    names = {}
    for path, stage in stages.items():
        for i, (name, layer) in enumerate(stage):
            names[f"{path}.{i}"] = name
            inside = layer.names if isinstance(layer, AttentionBlock) else {}
            names |= {f"{path}.{i}.{part}": f"{name}.{part_name}" for part, part_name in inside.items()}
    return names
