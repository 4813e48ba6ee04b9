"""A plan of pruning: the channels of each space that remain in a UNet of smaller widths, those with the best scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.errors import InputError
from ...networks.unet import UNet
from .channels import Channels, Space, channels_of
from .scores import Scores
from .widths import WidthCosts, Widths, choose_widths

Indices = Mapping[str, np.ndarray]  # space -> its channels that remain, in their old order


@dataclass(frozen=True)
class Plan:
    """What a smaller UNet has of a larger one."""

    config: Mapping[str, Any]  # of the smaller UNet, as Hugging Face writes it
    widths: Widths
    remaining: Indices
    cost_before: int
    cost_after: int

    @property
    def share(self) -> float:
        """Returns the share of the cost that is removed."""
        return 1 - self.cost_after / self.cost_before


def plan(unet: UNet, config: Mapping[str, Any], scores: Scores, share: float, cost: str = "macs") -> Plan:
    """Returns the plan of a UNet without `share` of its cost.

    config: the UNet's, as Hugging Face writes it. scores: of every channel, by space. cost: "macs" of one evaluation,
    or "parameters". Raises InputError where a UNet cannot be pruned, or not by that share.
    """
    check(config)
    channels = channels_of(unet)
    costs = WidthCosts(config, channels, cost)
    widths = choose_widths(costs, share, _attending(channels, len(costs.widths.channels)))
    remaining = select(channels, scores, costs.widths, widths)
    smaller = widths.change(config, unet.config.embedding)
    return Plan(smaller, widths, remaining, costs.whole_cost, costs.count(widths))


def check(config: Mapping[str, Any]) -> None:
    """Raises InputError for a config that pruning knows no smaller one of."""
    if config.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        raise InputError("pruning takes UNets with a prompt (UNet2DConditionModel); this one is of another class")


def select(channels: Channels, scores: Scores, before: Widths, after: Widths) -> Indices:
    """Returns the channels of each space that remain, in their old order.

    Where a group norm reads a space, whole groups remain, with equally many channels of each. Of an attention's
    queries and values the same heads remain; or all heads, with the best features of each.
    """
    remaining: dict[str, np.ndarray] = {}
    for name, space in channels.spaces.items():
        width = after.channels[space.level]
        if space.heads:
            heads = after.heads[space.level]
            together = sum(scores[n] for n in _attention_spaces(channels, space))
            remaining[name] = _of_heads(scores[name], np.asarray(together), space.heads, heads, width // heads)
        elif space.grouped:
            remaining[name] = _of_groups(scores[name], before.groups, after.groups, width // after.groups)
        else:
            remaining[name] = _best(scores[name], width * space.multiple)
    return remaining


def _attention_spaces(channels: Channels, space: Space) -> list[str]:
    return [name for name, other in channels.spaces.items() if other.attention == space.attention]


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the largest scores, in order; of equal ones the first."""
    best: np.ndarray = np.sort(np.argsort(-scores, kind="stable")[:count])
    return best


def _of_groups(scores: np.ndarray, before: int, groups: int, channels: int) -> np.ndarray:
    """Returns `channels` of each of `groups` groups: those of the groups that are worth most with that many."""
    table = scores.reshape(before, -1)
    rows = [_best(row, channels) for row in table]
    worth = np.array([row[indices].sum() for row, indices in zip(table, rows, strict=True)])
    return np.concatenate([group * table.shape[1] + rows[group] for group in _best(worth, groups)])


def _of_heads(scores: np.ndarray, together: np.ndarray, before: int, heads: int, size: int) -> np.ndarray:
    """Returns `size` features of each of `heads` heads; together: the scores of queries and values."""
    table = scores.reshape(before, -1)
    best = _best(together.reshape(before, -1).sum(axis=1), heads)
    return np.concatenate([head * table.shape[1] + _best(table[head], size) for head in best])


def _attending(channels: Channels, levels: int) -> list[bool]:
    heads = {space.level for space in channels.spaces.values() if space.heads}
    return [level in heads for level in range(levels)]
