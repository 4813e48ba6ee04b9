"""The weights of a smaller UNet, cut out of a larger one's by a plan."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ...core.errors import Failure
from ...networks.embeddings import sinusoids
from ...networks.unet import UNet
from ...networks.unet_config import UNetConfig
from .channels import Channels, channels_of
from .plan import Indices, Plan

Weights = dict[str, mx.array]

_TIMESTEPS, _HALVES = 1000, 2  # embeddings of timesteps are fitted at these, and half way between
_RIDGE = 1e-3  # of that fit: sinusoids of long waves are nearly alike, and would be weighed hugely against each other


def weights_of(unet: UNet) -> Weights:
    """Returns the parameters of a UNet by name."""
    flat: Any = tree_flatten(unet.parameters())
    return dict(flat)


def cut(weights: Mapping[str, mx.array], channels: Channels, remaining: Indices) -> Weights:
    """Returns weights with the channels that remain, along every axis; spaces that `remaining` lacks stay whole."""
    smaller = dict(weights)
    for parameter, axis, spaces in channels.axes:
        parts, start = [], 0
        for name in spaces:
            size = channels.spaces[name].size
            parts.append(start + np.asarray(remaining.get(name, np.arange(size))))
            start += size
        smaller[parameter] = mx.take(smaller[parameter], mx.array(np.concatenate(parts)), axis=axis)
    for name, space in channels.spaces.items():
        if name.endswith(".q") and name in remaining and space.heads:
            smaller |= _rescaled_queries(smaller, name, _head_ratio(space.size // space.heads, remaining[name]))
    return smaller


def apply(unet: UNet, plan: Plan) -> Weights:
    """Returns the weights of the plan's smaller UNet, which has all of them and no others.

    Scores of attentions stay what they were where queries lose nothing but zeros: their new scale is made up for. The
    sinusoids of timesteps change with the width of the finest level; the layer that reads them is fitted to give what
    it gave.
    """
    weights = cut(weights_of(unet), channels_of(unet), plan.remaining)
    smaller = UNet(UNetConfig.from_hf(plan.config))
    width = smaller.config.channels
    if width != unet.config.channels:
        for layer in _readers_of_sinusoids(unet):
            weights |= refit(unet, layer, width)
    expected = {name: array.shape for name, array in weights_of(smaller).items()}
    wrong = {name for name in expected.keys() | weights.keys() if _shape(weights, name) != expected.get(name)}
    if wrong:
        raise Failure(f"the plan does not fit the UNet ({', '.join(sorted(wrong)[:8])})")
    # In memory as a file's are, so that a run that is resumed multiplies in the same order.
    weights = {name: mx.contiguous(array) for name, array in weights.items()}
    mx.eval(weights)
    return weights


def refit(unet: UNet, layer: str, width: int) -> Weights:
    """Returns the weights of a layer that reads sinusoids of timesteps, for sinusoids of another width.

    layer: its path, of an `EmbeddingMLP`. Its outputs are fitted by least squares at all timesteps, which is no more
    than close: the waves have other lengths. A latent consistency model's embedded guidance, which is added to the
    sinusoids, is fitted to add what it added.
    """
    config = unet.config
    old = {name.removeprefix(f"{layer}."): a for name, a in weights_of(unet).items() if name.startswith(f"{layer}.")}
    weight = np.asarray(old["linear1.weight"].astype(mx.float32), np.float64)  # (embedding, old width)
    t = mx.arange(_TIMESTEPS * _HALVES) / _HALVES

    def features(size: int) -> np.ndarray:
        """Returns the sinusoids of all timesteps, and ones for the bias."""
        waves = sinusoids(t, size, config.flip_sin_to_cos, config.freq_shift)
        return np.hstack([np.asarray(waves, np.float64), np.ones((t.size, 1))])

    outputs = features(config.channels)[:, :-1] @ weight.T
    inputs = features(width)
    ridge = _RIDGE * t.size * np.eye(width + 1)
    fitted = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ outputs).T  # (embedding, width + 1)
    dtype = old["linear1.weight"].dtype
    new = {
        "linear1.weight": mx.array(fitted[:, :-1].astype(np.float32)).astype(dtype),
        "linear1.bias": old["linear1.bias"] + mx.array(fitted[:, -1].astype(np.float32)).astype(dtype),
    }
    if "guidance.weight" in old:
        added = weight @ np.asarray(old["guidance.weight"].astype(mx.float32), np.float64)
        guidance = np.linalg.lstsq(fitted[:, :-1], added, rcond=_RIDGE)[0]
        new["guidance.weight"] = mx.array(guidance.astype(np.float32)).astype(dtype)
    return {f"{layer}.{name}": array for name, array in new.items()}


def _readers_of_sinusoids(unet: UNet) -> list[str]:
    """The layers that read sinusoids as wide as the finest level."""
    classes = ["embedding.classes"] if unet.config.class_embedding == "timestep" else []
    return ["embedding.timestep", *classes]


def _head_ratio(size: int, indices: np.ndarray) -> float:
    """The features of a head that remain, relative to those it had."""
    heads = np.unique(indices // size).size
    return indices.size / heads / size


def _rescaled_queries(weights: Mapping[str, mx.array], path: str, ratio: float) -> Weights:
    """Queries with which scores, divided by the root of the new size of a head, are as if divided by the old."""
    names = [f"{path}.{name}" for name in ("weight", "bias") if f"{path}.{name}" in weights]
    return {} if ratio == 1 else {name: weights[name] * ratio**0.5 for name in names}


def _shape(weights: Mapping[str, mx.array], name: str) -> tuple[int, ...] | None:
    return weights[name].shape if name in weights else None
