"""The channels that belong together: what is zero goes without a trace, and every width that changes is one of them."""

import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_unflatten

from mlx_sd.core.errors import InputError
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.train.pruning.channels import channels_of
from mlx_sd.train.pruning.slicing import weights_of
from mlx_sd.train.pruning.widths import Widths
from tests.support.families import FAMILIES, UNETS, distance
from tests.train.pruning import small_unets as small

CONFIGS = {name: FAMILIES[name]["unet"] for name in ("sd1", "sd2v", "sdxl", "inpaint9")} | UNETS
SHAPES = ("sd1", "sd2v", "sdxl")
ROUNDING = 3e-6  # of float32: the same channels in another order alone make 1.7e-6


def distances(name: str, removed: set[tuple[str, int]]) -> tuple[float, float]:
    """How far the masked network is from the one that is cut, and from the whole one."""
    config = CONFIGS[name]
    unet = small.unet_of(config)
    channels = channels_of(unet)
    remaining = small.without(channels, small.completed(channels, removed))
    before = small.called(unet, config)
    weights = small.centred(weights_of(unet), unet, channels, remaining)
    unet.update(tree_unflatten(list(small.masked(weights, channels, remaining).items())))
    expected = small.called(unet, config)
    after = small.called(small.operated(unet, channels, remaining), config)
    return distance(after, expected), distance(expected, before)


def removable(name: str) -> tuple[dict[str, list[small.Component]], int]:
    """The components by each space that they have channels of, and the number of spaces."""
    unet = UNet(UNetConfig.from_hf(CONFIGS[name]))
    channels = channels_of(unet)
    by_space: dict[str, list[small.Component]] = {}
    for component in small.components(unet, channels):
        counts: dict[str, int] = {}
        for space, _ in component:
            counts[space] = counts.get(space, 0) + 1
        if all(count < channels.spaces[space].size for space, count in counts.items()):
            for space in counts:
                by_space.setdefault(space, []).append(component)
    return by_space, len(channels.spaces)


@pytest.mark.parametrize("name", SHAPES)
def test_channels_that_are_zero_in_all_spaces_go_without_a_trace(name):
    by_space, spaces = removable(name)
    assert len(by_space) == spaces  # of every space something is removed
    removed: set[tuple[str, int]] = set()
    for components in by_space.values():
        removed |= components[len(components) // 2]
    error, change = distances(name, removed)
    assert error <= ROUNDING
    assert change > 0.1  # the channels were of use


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_channels_that_are_zero_in_one_space_go_without_a_trace(name):
    for components in list(removable(name)[0].values())[SHAPES.index(name) :: 8]:
        assert distances(name, set(components[0]))[0] <= ROUNDING


@pytest.mark.parametrize("name", CONFIGS)
def test_every_axis_that_depends_on_widths_is_one_of_channels(name):
    config = CONFIGS[name]
    unet = UNet(UNetConfig.from_hf(config))
    channels, widths = channels_of(unet), Widths.of(unet.config)
    wider = Widths(tuple(2 * w for w in widths.channels), widths.groups, widths.heads)
    doubled = UNet(UNetConfig.from_hf(wider.change(config, unet.config.embedding)))
    before, after = weights_of(unet), weights_of(doubled)
    assert before.keys() == after.keys()
    differing = {
        (parameter, axis)
        for parameter, array in before.items()
        for axis, size in enumerate(array.shape)
        if size != after[parameter].shape[axis]
    }
    sinusoids = {("embedding.timestep.linear1.weight", 1), ("embedding.classes.linear1.weight", 1)}
    sinusoids |= {("embedding.timestep.guidance.weight", 0)}
    assert differing - sinusoids == {(a.parameter, a.axis) for a in channels.axes}
    for parameter, axis, spaces in channels.axes:
        assert before[parameter].shape[axis] == sum(channels.spaces[s].size for s in spaces)
    for space in channels.spaces.values():
        assert space.size == space.multiple * widths.channels[space.level]


@pytest.mark.parametrize(("name", "ties"), [("sd1", {(0, 1), (2, 3)}), ("sdxl", {(1, 2)}), ("lcm", set())])
def test_levels_without_a_layer_between_are_tied(name, ties):
    assert channels_of(UNet(UNetConfig.from_hf(CONFIGS[name]))).ties == ties


def test_residuals_have_the_space_that_they_are_added_to():
    channels = channels_of(UNet(UNetConfig.from_hf(CONFIGS["sd1"])))
    axes = {axis.parameter: axis.spaces for axis in channels.axes if axis.axis == 0}
    assert axes["down.stages.1.0.conv2.weight"] == axes["down.stages.0.0.weight"] == ("down.stages.0.0",)
    assert axes["down.stages.2.1.proj_out.weight"] == ("down.stages.0.0",)
    assert axes["up.stages.0.0.norm1.weight"] == (axes["middle.layers.2.conv2.weight"][0], "down.stages.9.0.conv")
    inner = axes["down.stages.1.1.blocks.0.up.weight"]
    assert inner[0] == inner[1] and channels.spaces[inner[0]].multiple == 4


def test_layers_of_another_kind_are_refused():
    unet = UNet(UNetConfig.from_hf(CONFIGS["lcm"]))
    unet.down.stages[1].append(nn.ReLU())
    with pytest.raises(InputError, match="ReLU cannot be pruned"):
        channels_of(unet)


def test_the_components_of_a_unet_whose_levels_are_alike_are_small():
    unet = UNet(UNetConfig.from_hf(CONFIGS["sd1"] | {"block_out_channels": [32] * 4}))
    sizes = {len(component) for component in small.components(unet, channels_of(unet))}
    assert max(sizes) <= 16 and np.all([size in (1, 4, 8, 16) for size in sizes])
