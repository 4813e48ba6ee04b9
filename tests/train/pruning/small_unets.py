"""Small UNets with random weights, and which of their channels can go without a trace."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from mlx_sd.networks.layers import Attention, GroupNorm, LayerNorm
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.train.pruning.channels import Channels
from mlx_sd.train.pruning.slicing import Weights, cut, weights_of
from tests.support import families

EPSILON = 1e-12  # of layer norms here, which divides channels that were cut and those that were not

Component = frozenset[tuple[str, int]]  # channels as (space, number)


def unet_of(config: Mapping[str, Any]) -> UNet:
    """A UNet with random weights, none of which is zero."""
    unet = UNet(UNetConfig.from_hf(config))
    unet.update(
        tree_unflatten(
            [(name, mx.array(_random(name, tuple(array.shape)))) for name, array in weights_of(unet).items()]
        )
    )
    return _precise(unet)


def _random(name: str, shape: tuple[int, ...]) -> np.ndarray:
    numbers = families.numbers(name, *shape)
    if name.endswith("bias"):
        return 0.1 * numbers
    return 1 + 0.1 * numbers if len(shape) == 1 else numbers / np.sqrt(np.prod(shape[1:]))


def _precise(unet: UNet) -> UNet:
    for _, module in unet.named_modules():
        if isinstance(module, LayerNorm):
            module.eps = EPSILON
    return unet


def called(unet: UNet, config: Mapping[str, Any]) -> np.ndarray:
    """The prediction of a UNet for the inputs that all tests use."""
    inputs = {name: mx.array(value) for name, value in families.unet_inputs(dict(config)).items()}
    return np.asarray(unet(**inputs)[0])


def components(unet: UNet, channels: Channels) -> list[Component]:
    """The sets of channels that can go together exactly: group norms need whole groups, attentions whole heads."""
    parent: dict[tuple[str, int], tuple[str, int]] = {
        (name, i): (name, i) for name, space in channels.spaces.items() for i in range(space.size)
    }

    def root(node: tuple[str, int]) -> tuple[str, int]:
        while parent[node] != node:
            node = parent[node]
        return node

    runs = []
    modules = dict(unet.named_modules())
    for axis in channels.axes:
        norm = modules[axis.parameter.rpartition(".")[0]]
        if isinstance(norm, GroupNorm):
            nodes = [(name, i) for name in axis.spaces for i in range(channels.spaces[name].size)]
            size = len(nodes) // norm.num_groups
            runs += [nodes[start : start + size] for start in range(0, len(nodes), size)]
    for name, space in channels.spaces.items():
        if space.heads and name.endswith(".q"):
            size = space.size // space.heads
            pair = (name, name.removesuffix("q") + "v")
            runs += [[(n, h * size + i) for n in pair for i in range(size)] for h in range(space.heads)]
    for first, *others in runs:
        for node in others:
            parent[root(node)] = root(first)
    groups: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for node in parent:
        groups.setdefault(root(node), set()).add(node)
    return [frozenset(group) for group in groups.values()]


def completed(channels: Channels, removed: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """The same, with a head of every attention and as many channels around it where a transformer loses any.

    Our attentions are as wide as what they are added to.
    """
    result = set(removed)
    for name in channels.spaces:
        path = name.removesuffix(".proj_in")
        inside = [space for space in channels.spaces.values() if space.attention.startswith(f"{path}.")]
        if path != name and any(space in (name, *(s.name for s in inside)) for space, _ in removed):
            size = inside[0].size // inside[0].heads
            result -= {(space, i) for space, i in result if space in (name, *(s.name for s in inside))}
            result |= {(space.name, i + size) for space in inside for i in range(size)}
            result |= {(name, 2 * i + 1) for i in range(size)}
    return result


def without(channels: Channels, removed: set[tuple[str, int]]) -> dict[str, np.ndarray]:
    """The channels of each space that remain."""
    return {
        name: np.array([i for i in range(space.size) if (name, i) not in removed])
        for name, space in channels.spaces.items()
    }


def masked(weights: Weights, channels: Channels, remaining: Mapping[str, np.ndarray]) -> Weights:
    """Weights with zeros for everything that goes with channels that do not remain."""
    zeroed = {name: np.array(array) for name, array in weights.items()}
    for parameter, axis, spaces in channels.axes:
        mask = [np.isin(np.arange(channels.spaces[name].size), remaining[name]) for name in spaces]
        shape = [1] * zeroed[parameter].ndim
        shape[axis] = -1
        zeroed[parameter] *= np.concatenate(mask).reshape(shape)
    return {name: mx.array(array) for name, array in zeroed.items()}


def centred(weights: Weights, unet: UNet, channels: Channels, remaining: Mapping[str, np.ndarray]) -> Weights:
    """Weights with which what layer norms read has the mean zero: only then are channels that are zero no matter."""
    centred, layered = dict(weights), layer_normed(unet, channels)
    for parameter, axis, spaces in channels.axes:
        makes = axis == 0 and ".norm" not in parameter and len(spaces) == 1
        if makes and spaces[0] in layered:
            array = np.array(centred[parameter])
            array[remaining[spaces[0]]] -= array[remaining[spaces[0]]].mean(axis=0, keepdims=True)
            centred[parameter] = mx.array(array)
    return centred


def layer_normed(unet: UNet, channels: Channels) -> dict[str, list[str]]:
    """The spaces that layer norms read, and the scales of these norms."""
    modules, spaces = dict(unet.named_modules()), {}
    for axis in channels.axes:
        if isinstance(modules[axis.parameter.rpartition(".")[0]], LayerNorm) and axis.parameter.endswith("weight"):
            spaces.setdefault(axis.spaces[0], []).append(axis.parameter)
    return spaces


def rescaled(weights: Weights, unet: UNet, channels: Channels, remaining: Mapping[str, np.ndarray]) -> Weights:
    """Weights of a smaller UNet whose layer norms, which divide by fewer channels, give what they gave."""
    result = dict(weights)
    for name, scales in layer_normed(unet, channels).items():
        for scale in scales:
            result[scale] = result[scale] * (channels.spaces[name].size / remaining[name].size) ** 0.5
    return result


def operated(unet: UNet, channels: Channels, remaining: Mapping[str, np.ndarray]) -> UNet:
    """A UNet that is cut space by space, as no config could say: each norm and attention has a number of its own."""
    smaller = _precise(UNet(unet.config))
    weights = rescaled(cut(weights_of(unet), channels, remaining), unet, channels, remaining)
    smaller.update(tree_unflatten(list(weights.items())))
    before = dict(unet.named_modules())
    for path, module in smaller.named_modules():
        if isinstance(module, GroupNorm):
            size = before[path].weight.size // module.num_groups
            module.num_groups = module.weight.size // size
        elif isinstance(module, Attention):
            space = channels.spaces[f"{path}.q"]
            size = space.size // space.heads
            module.heads = np.unique(remaining[f"{path}.q"] // size).size
    return smaller
