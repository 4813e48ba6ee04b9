"""Which channels of a UNet belong together: the spaces of its features, and the axes of weights that run along them.

A layer that makes features and every layer that reads them are cut at the same channels, and so is everything that is
added to them. These couplings (the dependency graph of Fang et al. 2023, "DepGraph") are derived by walking through the
network's layers as its call does:

    convolution, linear layer   reads one space, or several that are joined, and makes one
    group norm, layer norm      scales the space that it reads
    residual connection         the space of its end is the space of its beginning
    skip                        joins its space behind that of the features
    attention                   queries and keys share a space, values and the output's input another
    gated feed-forward          both halves of its first layer are one space

Each space has the width of one level of the UNet, or a multiple of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mlx.nn as nn
from mlx.utils import tree_flatten

from ...core.errors import InputError
from ...networks.blocks import Downsample, InputConv, ResBlock, Transformer, TransformerBlock, Upsample
from ...networks.layers import Attention
from ...networks.unet import Stage, UNet


@dataclass(frozen=True)
class Space:
    """Channels that exist together, in one order."""

    name: str  # the path of the layer that makes them first
    level: int  # whose width, times `multiple`, is their number
    size: int
    multiple: int = 1
    grouped: bool = False  # a group norm reads them
    heads: int = 0  # of the attention whose queries or values they are; 0 for other spaces
    attention: str = ""  # the path of that attention: its two spaces lose the same heads


class Axis(NamedTuple):
    """An axis of a parameter, along which channels of one space, or of several in a row, lie."""

    parameter: str
    axis: int
    spaces: tuple[str, ...]


@dataclass(frozen=True)
class Channels:
    """All spaces of a UNet by name, the axes that run along them, and the levels that must stay equally wide."""

    spaces: Mapping[str, Space]
    axes: tuple[Axis, ...]
    ties: frozenset[tuple[int, int]]  # pairs of levels


def channels_of(unet: UNet) -> Channels:
    """Returns the spaces of a UNet's channels; InputError for a UNet of which this is not known."""
    parameters: Any = tree_flatten(unet.parameters())
    walk = _Walk({name: array.shape for name, array in parameters})
    config = unet.config
    down: list[_Joined] = []
    x: _Joined = ()
    stages = iter(enumerate(unet.down.stages))
    for level, block in enumerate(config.down):
        count = (level == 0) + block.resnets + (level + 1 < len(config.down))
        for number, stage in (next(stages) for _ in range(count)):
            x = walk.stage(f"down.stages.{number}", stage, level, x)
            down.append(x)
    bottom = len(config.down) - 1
    x = walk.stage("middle.layers", unet.middle.layers, bottom, x)
    stages = iter(enumerate(unet.up.stages))
    for level, block in zip(reversed(range(len(config.up))), config.up, strict=True):
        for number, stage in (next(stages) for _ in range(block.resnets)):
            x = walk.stage(f"up.stages.{number}", stage, level, x + down.pop())
    walk.scale("norm", x, grouped=True)
    walk.layer("conv", x, None)
    return walk.channels()


_Joined = tuple[str, ...]  # the spaces of features, in a row where they are joined


@dataclass
class _Walk:
    """The walk through a UNet: spaces and axes that it has come across."""

    shapes: Mapping[str, tuple[int, ...]]
    spaces: dict[str, Space] = field(default_factory=dict)
    axes: list[Axis] = field(default_factory=list)
    ties: set[tuple[int, int]] = field(default_factory=set)
    grouped: set[str] = field(default_factory=set)

    def channels(self) -> Channels:
        """Returns the spaces and axes of all layers that were walked through."""
        spaces = {
            name: Space(**{**vars(space), "grouped": name in self.grouped}) for name, space in self.spaces.items()
        }
        return Channels(spaces, tuple(self.axes), frozenset(self.ties))

    def space(
        self, name: str, level: int, size: int, multiple: int = 1, heads: int = 0, attention: str = ""
    ) -> _Joined:
        """Begins a space."""
        self.spaces[name] = Space(name, level, size, multiple, heads=heads, attention=attention)
        return (name,)

    def rows(self, path: str) -> int:
        """Returns the number of outputs of a layer."""
        return self.shapes[f"{path}.weight"][0]

    def layer(self, path: str, inputs: _Joined | None, outputs: _Joined | None) -> None:
        """Notes a convolution or linear layer from one space to another; None for what is never cut."""
        weight = f"{path}.weight"
        if outputs:
            self.axes += [Axis(name, 0, outputs) for name in (weight, f"{path}.bias") if name in self.shapes]
        if inputs:
            self.axes.append(Axis(weight, len(self.shapes[weight]) - 1, inputs))

    def scale(self, path: str, spaces: _Joined, grouped: bool) -> None:
        """Notes a norm over channels."""
        self.axes += [Axis(f"{path}.{name}", 0, spaces) for name in ("weight", "bias")]
        if grouped:
            self.grouped.update(spaces)

    def stage(self, path: str, stage: Stage, level: int, x: _Joined) -> _Joined:
        """Walks through layers one after another, and returns the spaces of the last one's output."""
        rules: dict[type[nn.Module], Callable[[str, nn.Module, int, _Joined], _Joined]] = {
            InputConv: self.input_convolution,
            ResBlock: self.residual_block,
            Transformer: self.transformer,
            Downsample: self.resampling,
            Upsample: self.resampling,
        }
        for number, layer in enumerate(stage):
            rule = rules.get(type(layer))
            if rule is None:
                raise InputError(f"a UNet with layers of the type {type(layer).__name__} cannot be pruned yet")
            x = rule(f"{path}.{number}", layer, level, x)
        return x

    def input_convolution(self, path: str, layer: nn.Module, level: int, x: _Joined) -> _Joined:
        """The first convolution, which makes a space of latents."""
        y = self.space(path, level, self.rows(path))
        self.layer(path, None, y)
        return y

    def resampling(self, path: str, layer: nn.Module, level: int, x: _Joined) -> _Joined:
        """A convolution between two levels, which makes a space of its own."""
        y = self.space(f"{path}.conv", level, self.rows(f"{path}.conv"))
        self.layer(f"{path}.conv", x, y)
        return y

    def residual_block(self, path: str, layer: nn.Module, level: int, x: _Joined) -> _Joined:
        """A residual block: a space between its convolutions, and one of its output where it has a shortcut's layer."""
        assert isinstance(layer, ResBlock)
        if "skip" not in layer and len(x) > 1:
            raise InputError(f"{path} adds to joined features without a layer between; this UNet cannot be pruned")
        inner = self.space(f"{path}.conv1", level, self.rows(f"{path}.conv1"))
        self.scale(f"{path}.norm1", x, grouped=True)
        self.layer(f"{path}.conv1", x, inner)
        self.layer(f"{path}.embed", None, inner * 2 if layer.scale_shift else inner)
        self.scale(f"{path}.norm2", inner, grouped=True)
        if "skip" in layer:
            y = self.space(f"{path}.conv2", level, self.rows(f"{path}.conv2"))
            self.layer(f"{path}.skip", x, y)
        else:
            y = x
            if (other := self.spaces[x[0]].level) != level:
                self.ties.add((other, level))
        self.layer(f"{path}.conv2", inner, y)
        return y

    def transformer(self, path: str, layer: nn.Module, level: int, x: _Joined) -> _Joined:
        """A transformer: a space inside, and those of its attentions and feed-forwards."""
        assert isinstance(layer, Transformer)
        inner = self.space(f"{path}.proj_in", level, self.rows(f"{path}.proj_in"))
        self.scale(f"{path}.norm", x, grouped=True)
        self.layer(f"{path}.proj_in", x, inner)
        for number, block in enumerate(layer.blocks):
            self.transformer_block(f"{path}.blocks.{number}", block, level, inner)
        self.layer(f"{path}.proj_out", inner, x)
        return x

    def transformer_block(self, path: str, block: TransformerBlock, level: int, x: _Joined) -> None:
        """Self-attention, cross-attention and feed-forward, each added to the space of the transformer."""
        for norm in ("norm1", "norm2", "norm3"):
            self.scale(f"{path}.{norm}", x, grouped=False)
        self.attention(f"{path}.attn1", block.attn1, level, x, None if block.only_cross else x)
        self.attention(f"{path}.attn2", block.attn2, level, x, None)
        hidden = self.space(f"{path}.down", level, self.shapes[f"{path}.down.weight"][1], multiple=4)
        self.layer(f"{path}.up", x, hidden * 2)
        self.layer(f"{path}.down", hidden, x)

    def attention(self, path: str, layer: Attention, level: int, x: _Joined, context: _Joined | None) -> None:
        """An attention to x itself, or to a context, which is never cut."""
        size = self.rows(f"{path}.q")
        queries = self.space(f"{path}.q", level, size, heads=layer.heads, attention=path)
        values = self.space(f"{path}.v", level, size, heads=layer.heads, attention=path)
        self.layer(f"{path}.q", x, queries)
        self.layer(f"{path}.k", context, queries)
        self.layer(f"{path}.v", context, values)
        self.layer(f"{path}.out", values, x)
