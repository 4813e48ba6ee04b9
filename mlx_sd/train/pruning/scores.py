"""What each channel of a UNet is worth: by how much the loss would change without it, or a plainer measure.

Diff-Pruning (Fang, Ma and Wang 2023, eq. 9): to first order, the loss changes by w * dL/dw where a weight w is set to
zero. The gradient is summed over timesteps. Timesteps whose loss is small beside the largest are left out: they are of
images that are nearly done, or nearly noise, and their gradients are mostly noise themselves. A channel's score is the
sum of |w * gradient| over all weights that go with it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from ...core.errors import Failure
from ...networks.unet import UNet
from ..learning.examples import MicroBatch
from .channels import Channels, Space

Loss = Callable[[MicroBatch], mx.array]
Scores = Mapping[str, np.ndarray]  # space -> (channels,), in float64


class Timestep(NamedTuple):
    """A timestep, the loss at it, and whether its gradient counts."""

    timestep: int
    loss: float
    counts: bool


class Products(NamedTuple):
    """The weights of a UNet times the gradients of its loss, by parameter, and the timesteps these are of."""

    arrays: Mapping[str, mx.array]
    timesteps: tuple[Timestep, ...]


def spread_timesteps(total: int, count: int) -> list[int]:
    """Returns `count` of the timesteps 0 to before `total`, in the middles of equal intervals."""
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def products(
    unet: UNet, loss: Loss, batches: Sequence[MicroBatch], timesteps: Sequence[int], threshold: float
) -> Products:
    """Returns each weight times the loss's gradient, summed over timesteps, each the mean over micro-batches.

    loss: of a micro-batch with the UNet's present weights. threshold: timesteps whose loss is below this share of the
    largest are left out. Raises Failure where a loss is not finite.
    """
    losses = np.array([_mean(loss, [_at(batch, t) for batch in batches]) for t in timesteps])
    if not np.isfinite(losses).all():
        raise Failure("the loss is not finite, so channels have no scores; use float32 (--dtype)")
    counts = losses >= threshold * losses.max()
    gradient = nn.value_and_grad(unet, loss)
    total: Any = None
    for t in [timestep for timestep, count in zip(timesteps, counts, strict=True) if count]:
        for batch in batches:
            _, gradients = gradient(_at(batch, t))
            gradients = tree_map(lambda array: array.astype(mx.float32), gradients)  # which half precision cannot sum
            total = gradients if total is None else tree_map(mx.add, total, gradients)
            mx.eval(total)
    flat: Any = tree_flatten(tree_map(mx.multiply, total, unet.trainable_parameters()))
    arrays = {name: array / len(batches) for name, array in flat}
    mx.eval(arrays)
    rows = (Timestep(t, float(value), bool(c)) for t, value, c in zip(timesteps, losses, counts, strict=True))
    return Products(arrays, tuple(rows))


def by_channel(channels: Channels, arrays: Mapping[str, mx.array]) -> Scores:
    """Returns the sums of absolute values over everything that goes with a channel.

    arrays: by parameter, of the parameters' shapes: `products`, or the weights themselves for scores by magnitude.
    """
    scores = {name: np.zeros(space.size) for name, space in channels.spaces.items()}
    for parameter, axis, spaces in channels.axes:
        array = mx.abs(arrays[parameter].astype(mx.float32))
        sums = np.asarray(array.sum(axis=[i for i in range(array.ndim) if i != axis]), np.float64)
        start = 0
        for name in spaces:
            size = channels.spaces[name].size
            scores[name] += sums[start : start + size]
            start += size
    return scores


def at_random(channels: Channels, seed: int) -> Scores:
    """Returns scores from 0 to 1 that mean nothing: a function of the seed and each space's name."""
    return {name: _generator(seed, space).random(space.size) for name, space in channels.spaces.items()}


def _generator(seed: int, space: Space) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{space.name}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _at(batch: MicroBatch, timestep: int) -> MicroBatch:
    """Returns a micro-batch whose examples all have one timestep."""
    draws = batch.draws
    return replace(batch, draws=draws._replace(timesteps=mx.full(draws.timesteps.shape, timestep, mx.int32)))


def _mean(loss: Loss, batches: Sequence[MicroBatch]) -> float:
    return float(np.mean([loss(batch).item() for batch in batches]))
