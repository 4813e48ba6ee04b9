"""BK-SDM's shapes: whole blocks that do nothing are left out without a trace, and the published sizes are met."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.core.errors import InputError
from mlx_sd.networks.blocks import ResBlock, Transformer
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.train.pruning.shapes import shape_config, shape_weights
from mlx_sd.train.pruning.widths import cost_of
from tests.support.effort import slow_rows_but
from tests.support.families import FAMILIES, UNETS, distance
from tests.train.pruning import small_unets as small
from tests.train.pruning.test_plan import FULL


def idle(layer: ResBlock | Transformer) -> None:
    """Makes a layer return what it is called with, or of joined features the first."""
    last = layer.conv2 if isinstance(layer, ResBlock) else layer.proj_out
    last.weight, last.bias = mx.zeros(last.weight.shape), mx.zeros(last.bias.shape)
    if isinstance(layer, ResBlock) and "skip" in layer:
        outputs, _, _, inputs = layer.skip.weight.shape
        layer.skip.weight, layer.skip.bias = mx.eye(outputs, inputs)[:, None, None], mx.zeros((outputs,))


def idle_blocks(unet: UNet, shape: str) -> None:
    """Makes everything idle that a shape leaves out, but for the coarsest level."""
    for path, name in unet.names.items():
        down, up = name.startswith("down_blocks"), name.startswith("up_blocks")
        number = name.split(".")[-1]
        if ("resnets" in name or "attentions" in name) and (
            (down and number == "1") or (up and number == "1") or (shape != "base" and name.startswith("mid_block"))
        ):
            module = unet
            for part in path.split("."):
                module = module[int(part)] if isinstance(module, list) else module[part]
            idle(module)


@pytest.mark.parametrize(("name", "shape"), slow_rows_but([("sd1", "small")], [("sd1", "small"), ("sdxl", "base")]))
def test_blocks_that_do_nothing_are_left_out_without_a_trace(name, shape):
    config = FAMILIES[name]["unet"]
    unet = small.unet_of(config)
    before = small.called(unet, config)
    idle_blocks(unet, shape)
    expected = small.called(unet, config)
    smaller = UNet(UNetConfig.from_hf(shape_config(config, shape)))
    smaller.load_weights(list(shape_weights(unet, config, shape).items()), strict=True)
    assert distance(small.called(small._precise(smaller), config), expected) <= 1e-6
    assert distance(before, expected) > 0.1


@pytest.mark.parametrize("name", ["sdxl", "sd2v"])
def test_the_shape_tiny_has_the_weights_of_the_levels_that_stay(name):
    config = FAMILIES[name]["unet"]
    unet = small.unet_of(config)
    weights = shape_weights(unet, config, "tiny")
    smaller = UNet(UNetConfig.from_hf(shape_config(config, "tiny")))
    smaller.load_weights(list(weights.items()), strict=True)
    assert np.isfinite(small.called(smaller, config)).all()
    names, before = smaller.names, {n: p for p, n in unet.names.items()}
    up = next(path for path, diffusers in names.items() if diffusers == "up_blocks.0.resnets.1")
    last = unet.config.up[1].resnets - 1
    whole = dict(unet.named_modules())[before[f"up_blocks.1.resnets.{last}"]]
    assert mx.array_equal(weights[f"{up}.conv1.weight"], whole.conv1.weight)


@pytest.mark.parametrize(
    ("shape", "parameters"), [("base", 579_384_964), ("small", 482_346_884), ("tiny", 323_384_964)]
)
def test_the_shapes_have_the_published_numbers_of_parameters(shape, parameters):
    assert cost_of(UNetConfig.from_hf(shape_config(FULL["sd1"], shape)), "parameters") == parameters


def test_depths_listed_for_each_block_are_those_of_the_blocks_that_stay():
    config = shape_config(UNETS["ssd1b"], "base")
    assert config["transformer_layers_per_block"] == [1, [2], [3]]
    assert config["reverse_transformer_layers_per_block"] == [[1, 3], [2, 1], 1]
    unet = small.unet_of(UNETS["ssd1b"])
    assert shape_weights(unet, UNETS["ssd1b"], "base")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lcm", "base", "of the shape base already"),
        ("no_middle", "small", "of the shape small already"),
        ("lcm", "tiny", "coarsest levels have other widths"),
        ("lcm", "huge", "huge"),
    ],
)
def test_shapes_that_a_unet_cannot_have_are_refused(name, shape, message):
    with pytest.raises(InputError, match=message):
        shape_weights(small.unet_of(UNETS[name]), UNETS[name], shape)
