"""The widths of a smaller UNet that costs what it shall: each level's channels, the groups of its norms, the heads.

diffusers' configs know one width for each level (`block_out_channels`), one number of groups for all norms, and one
number of heads for each level. So these are what a plan may choose, and its result is an ordinary checkpoint.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ...core.errors import InputError
from ...networks.counting import counting
from ...networks.unet import UNet
from ...networks.unet_config import UNetConfig
from .channels import Channels

TOLERANCE = 0.03  # by how much of its target, or of half the whole cost, a plan's cost may differ from its target
EVEN = math.log(1.25)  # the largest and the smallest of the levels' ratios may differ by this factor
_TOKENS = 77  # of a prompt
_MOST_TRIED = 200  # widths whose network is built to see whether it has the same layers


@dataclass(frozen=True)
class Widths:
    """The channels of every level, the groups of every group norm, and the heads of every level's attentions."""

    channels: tuple[int, ...]
    groups: int
    heads: tuple[int, ...]

    @classmethod
    def of(cls, config: UNetConfig) -> "Widths":
        """Returns the widths of a UNet."""
        return cls(
            tuple(block.channels for block in config.down), config.groups, tuple(block.heads for block in config.down)
        )

    def change(self, config: Mapping[str, Any], embedding: int) -> dict[str, Any]:
        """Returns a config of Hugging Face with these widths; embedding: the width of the timestep's, as it was."""
        heads = self.heads[0] if len(set(self.heads)) == 1 else list(self.heads)
        return {
            **config,
            "block_out_channels": list(self.channels),
            "norm_num_groups": self.groups,
            "attention_head_dim": heads,  # is the number of heads in UNet2DConditionModel
            "time_embedding_dim": embedding,
        }


def cost_of(config: UNetConfig, kind: str) -> int:
    """Returns the parameters of a UNet, or the multiply-accumulates of one evaluation of one image of its own size."""
    unet = UNet(config)
    if kind == "parameters":
        parameters: Any = tree_flatten(unet.parameters())
        return sum(array.size for _, array in parameters)
    with counting(unet) as operations:
        unet(**_inputs(config))
    return sum(operation.macs for operation in operations)


def _inputs(config: UNetConfig) -> dict[str, Any]:
    """Returns zeros of the shapes that a UNet is called with."""
    inputs = {"x": mx.zeros((1, config.sample_size, config.sample_size, config.in_channels)), "t": mx.zeros((1,))}
    widths = {block.context for block in (*config.down, *config.up) if block.transformers}
    if config.takes_context:
        inputs["context"] = mx.zeros((1, _TOKENS, max(widths or {config.mid.context if config.mid else 0})))
    if config.added_time_dims:  # how many of these inputs are text and how many sizes changes no count
        inputs["time_ids"] = mx.zeros((1, 1))
        inputs["text_embeds"] = mx.zeros((1, config.added_inputs - config.added_time_dims))
    if config.class_embedding:
        width = config.embedding if config.class_embedding == "identity" else config.class_inputs
        scalar = config.class_embedding in ("table", "timestep")
        inputs["class_labels"] = mx.zeros((1,), mx.int32) if scalar else mx.zeros((1, width))
    if config.guidance_dims:
        inputs["timestep_cond"] = mx.zeros((1, config.guidance_dims))
    return inputs


def layers_of(unet: nn.Module) -> frozenset[str]:
    """Returns the names of a network's parameters."""
    flat: Any = tree_flatten(unet.parameters())
    return frozenset(name for name, _ in flat)


class WidthCosts:
    """The cost of a UNet as a function of its levels' widths, which is a polynomial of second degree.

    A layer's cost is the product of its inputs and outputs, or one of them. So a few networks that are counted give the
    cost of all; groups and heads do not change it.
    """

    def __init__(self, config: Mapping[str, Any], channels: Channels, kind: str):
        """config: of Hugging Face; kind: "macs" or "parameters"."""
        self._config, self.kind = config, kind
        outline = UNetConfig.from_hf(config)
        self._embedding, self.widths = outline.embedding, Widths.of(outline)
        self.levels = _tied(len(self.widths.channels), channels.ties)
        before = np.array([self.widths.channels[group[0]] for group in self.levels], float)
        points = [before, *self._points(before)]
        counts = [self.count(self._flat(self.spread(point))) for point in points]
        self.whole_cost = counts[0]
        self._scale = before
        self._factors = np.linalg.solve(_monomials(np.array(points) / before), np.array(counts, float))

    def spread(self, widths: Iterable[float]) -> tuple[int, ...]:
        """Returns the width of every level, where tied levels have one."""
        values = {level: int(w) for group, w in zip(self.levels, widths, strict=True) for level in group}
        return tuple(values[level] for level in sorted(values))

    def count(self, widths: Widths) -> int:
        """Returns the cost of the UNet with other widths, counted."""
        return cost_of(self.outline(widths), self.kind)

    def outline(self, widths: Widths) -> UNetConfig:
        """Returns the config of the UNet with other widths."""
        return UNetConfig.from_hf(widths.change(self._config, self._embedding))

    def at(self, widths: np.ndarray) -> np.ndarray:
        """Returns costs (N,) of widths (N, levels), where tied levels are one."""
        costs: np.ndarray = _monomials(np.atleast_2d(widths) / self._scale) @ self._factors
        return costs

    @staticmethod
    def _flat(channels: tuple[int, ...]) -> Widths:
        return Widths(channels, 1, (1,) * len(channels))

    @staticmethod
    def _points(before: np.ndarray) -> Iterator[np.ndarray]:
        """Yields widths beside the UNet's own, as many as a polynomial of second degree needs, all even."""
        steps = np.eye(len(before)) * 2
        for i, step in enumerate(steps):
            yield before + step
            yield from (before + step + other for other in steps[: i + 1])


def choose_widths(costs: WidthCosts, share: float, attending: Sequence[bool]) -> Widths:
    """Returns widths that cost 1 - share of the UNet's, but for TOLERANCE.

    Norms keep their number of groups where all levels can then shrink nearly alike, by EVEN; otherwise whole groups
    fall too. attending: whether a level has attentions, whose heads must divide its width. InputError where no widths
    cost that.
    """
    before = np.array([costs.widths.channels[group[0]] for group in costs.levels])
    target = (1 - share) * costs.whole_cost
    layers = layers_of(UNet(costs.outline(costs.widths)))
    uneven: list[tuple[float, Widths]] = []
    nearest: list[float] = []
    for groups in range(costs.widths.groups, 0, -1):
        table = np.array(list(_multiples(costs, groups, attending)), dtype=np.int64).reshape(-1, len(before))
        table = table[(table < before).any(axis=1)]
        if not len(table):
            continue
        counts = costs.at(table)
        misses = np.abs(counts - target) / max(target, costs.whole_cost / 2)
        nearest.append(float(1 - counts[misses.argmin()] / costs.whole_cost))
        ratios = np.log(table / before)
        spreads = ratios.max(axis=1) - ratios.min(axis=1)
        order = [i for i in np.lexsort((misses, spreads.round(2))) if misses[i] <= TOLERANCE][:_MOST_TRIED]
        for i in order:
            widths = _widths(costs, table[i], groups, attending)
            if layers_of(UNet(costs.outline(widths))) != layers:
                continue  # two widths have become equal, and a shortcut has lost its layer
            if spreads[i] <= EVEN:
                return widths
            uneven.append((float(spreads[i]), widths))
            break
    if uneven:
        return min(uneven, key=lambda pair: pair[0])[1]
    way_out = f"; the nearest is {min(nearest, key=lambda n: abs(n - share)):.3f}" if nearest else ""
    raise InputError(f"no widths of this UNet remove {share:.2f} of its {costs.kind}{way_out}")


def heads_of(width: int, before: int, heads: int, attends: bool) -> int:
    """Returns the heads of a narrower level, 0 where it can have none: as many of the old size, or all, smaller."""
    size = before // heads
    if width % size == 0:
        return width // size
    if width % heads == 0:
        return heads
    return 0 if attends else math.gcd(width, heads)


def _multiples(costs: WidthCosts, groups: int, attending: Sequence[bool]) -> Iterator[tuple[int, ...]]:
    """Yields the widths that a number of groups divides, with two channels or more in a group, none wider than before.

    One channel in a group would be an instance norm, which forgets how bright its channel is.
    """
    choices = []
    for group in costs.levels:
        before = costs.widths.channels[group[0]]
        size = before // costs.widths.groups
        widths = [groups * k for k in range(min(2, size), size + 1)]
        choices.append(
            [
                width
                for width in widths
                if (0 not in group or width % 2 == 0)  # of sinusoids half are cosines
                and all(heads_of(width, before, costs.widths.heads[level], attending[level]) for level in group)
            ]
        )
    yield from itertools.product(*choices)


def _widths(costs: WidthCosts, row: np.ndarray, groups: int, attending: Sequence[bool]) -> Widths:
    channels = costs.spread(row)
    old = costs.widths
    heads = [heads_of(*pair) for pair in zip(channels, old.channels, old.heads, attending, strict=True)]
    return Widths(channels, groups, tuple(heads))


def _tied(levels: int, ties: frozenset[tuple[int, int]]) -> list[list[int]]:
    """Returns the levels in groups that have one width."""
    groups = [[level] for level in range(levels)]
    for a, b in sorted(ties):
        first = next(group for group in groups if a in group)
        second = next(group for group in groups if b in group)
        if first is not second:
            first += second
            groups.remove(second)
    return groups


def _monomials(ratios: np.ndarray) -> np.ndarray:
    """Returns 1, the ratios, and the products of two of them, (N, terms)."""
    count = ratios.shape[1]
    columns = [np.ones(len(ratios)), *ratios.T]
    columns += [ratios[:, i] * ratios[:, j] for i in range(count) for j in range(i + 1)]
    return np.stack(columns, axis=1)
