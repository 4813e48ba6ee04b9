"""The UNet's paths exist on their own, and residuals act where a control network's do."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_sd.core.errors import InputError
from mlx_sd.networks.blocks import Conditioning
from mlx_sd.networks.unet import DownPath, Middle, UNet, add_residuals, concatenate
from mlx_sd.networks.unet_config import UNetConfig
from tests.support import families, unprompted
from tests.support.effort import slow_but
from tests.support.families import FAMILIES, UNETS

NAMES = ("sd1", "sd2v", "sdxl")
SIZE = (9, 5)  # rounded up at every downsampling


def inputs(name: str) -> dict[str, mx.array]:
    return {key: mx.array(value) for key, value in families.unet_inputs(FAMILIES[name]["unet"], SIZE).items()}


def residuals(unet: UNet, kwargs: dict[str, mx.array]) -> tuple[list[mx.array], mx.array]:
    """One array for each skip and one for the middle, different at every call site and of about the skips' size."""
    skips = joined_skips(unet, kwargs)
    arrays = [mx.array(families.numbers(f"residual {i}", *skip.shape)) for i, skip in enumerate(skips)]
    return arrays, mx.array(families.numbers("middle residual", *skips[-1].shape))


def joined_skips(unet: UNet, kwargs: dict[str, mx.array], **residuals) -> list[mx.array]:
    """The skips as the UNet joins them, by number."""
    skips: dict[int, mx.array] = {}

    def join(x: mx.array, skip: mx.array, number: int) -> mx.array:
        skips[number] = skip
        return concatenate(x, skip, number)

    unet(**kwargs, **residuals, join=join)
    return [skips[number] for number in range(len(skips))]


@pytest.mark.parametrize("name", slow_but(["sd1"], NAMES))
def test_residuals_of_zeros_are_none_bit_for_bit(name, family):
    unet, kwargs = family(name).unet, inputs(name)
    plain, deep = unet(**kwargs)
    skips, middle = residuals(unet, kwargs)
    zeros = {"skip_residuals": [mx.zeros_like(skip) for skip in skips], "middle_residual": mx.zeros_like(middle)}
    assert mx.array_equal(unet(**kwargs, **zeros)[0], plain)
    assert mx.array_equal(unet(**kwargs, **zeros, deep=deep)[0], plain)


@pytest.mark.parametrize("name", slow_but(["sd1"], NAMES))
def test_cached_is_full_bit_for_bit_with_residuals(name, family):
    unet, kwargs = family(name).unet, inputs(name)
    skips, middle = residuals(unet, kwargs)
    plain, _ = unet(**kwargs, skip_residuals=skips, middle_residual=middle)
    assert not mx.array_equal(plain, unet(**kwargs)[0])
    for branch in unet.branches:
        full, deep = unet(**kwargs, skip_residuals=skips, middle_residual=middle, depth=branch + 1)
        outer = skips[: branch + 1]  # all that a cached call reads
        cached, _ = unet(**kwargs, skip_residuals=outer, deep=deep, depth=branch + 1)
        assert mx.array_equal(full, plain), f"branch {branch}"
        assert mx.array_equal(cached, plain), f"branch {branch}"


@pytest.mark.parametrize("name", NAMES)
def test_of_a_cached_call_the_skips_residuals_are_fresh_and_the_middle_s_is_in_deep(name, family):
    unet, kwargs = family(name).unet, inputs(name)
    skips, middle = residuals(unet, kwargs)
    without, deep_without = unet(**kwargs, depth=2)
    _, deep_with = unet(**kwargs, middle_residual=middle, depth=2)
    assert not mx.array_equal(deep_with, deep_without)
    cached, _ = unet(**kwargs, deep=deep_without, depth=2, skip_residuals=skips)
    assert not mx.array_equal(cached, without)
    ignored, _ = unet(**kwargs, deep=deep_without, depth=2, middle_residual=middle)
    assert mx.array_equal(ignored, without)


@pytest.mark.parametrize("name", NAMES)
def test_residuals_are_added_to_the_skips_and_do_not_flow_on(name, family):
    unet, kwargs = family(name).unet, inputs(name)
    arrays, _ = residuals(unet, kwargs)
    expected = add_residuals(joined_skips(unet, kwargs), arrays)
    for number, skip in enumerate(joined_skips(unet, kwargs, skip_residuals=arrays)):
        assert mx.array_equal(skip, expected[number]), f"skip {number}"


def test_residuals_come_in_any_dtype_and_leave_the_networks():
    skip, residual = mx.ones((1, 2, 2, 3), mx.float16), mx.ones((1, 2, 2, 3))
    (added,) = add_residuals([skip], [residual])
    assert added.dtype == mx.float16 and mx.array_equal(added, mx.full(skip.shape, 2.0))


def test_fewer_residuals_than_skips_are_refused(family):
    unet, kwargs = family("sd1").unet, inputs("sd1")
    arrays, _ = residuals(unet, kwargs)
    with pytest.raises(InputError, match="skip_residuals has 11 arrays for 12 skips"):
        unet(**kwargs, skip_residuals=arrays[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_down_path_and_a_middle_alone_with_the_unet_s_weights_compute_its_skips_and_its_middle(name, family):
    unet, kwargs = family(name).unet, inputs(name)
    down, middle = DownPath(unet.config), Middle(unet.config)
    down.load_weights(tree_flatten(unet.down.parameters()))
    middle.load_weights(tree_flatten(unet.middle.parameters()))
    x, t, context = (kwargs.pop(key) for key in ("x", "t", "context"))
    conditioning = Conditioning(unet.embedding(t, x.dtype, **kwargs), context)
    skips = down(x, conditioning)
    expected = joined_skips(unet, {"x": x, "t": t, "context": context, **kwargs})
    assert len(skips) == len(expected) == len(unet.branches)
    assert all(mx.array_equal(a, b) for a, b in zip(skips, expected, strict=True))
    _, deep = unet(x, t, context, **kwargs, depth=len(skips))  # all levels: only the middle is below the cut
    assert mx.array_equal(middle(skips[-1], conditioning), deep)


@pytest.mark.parametrize(
    "config", [*(f["unet"] for f in FAMILIES.values()), *UNETS.values(), *unprompted.UNETS.values()]
)
def test_the_config_lists_the_width_of_every_skip(config):
    unet = UNet(UNetConfig.from_hf(config))
    widths = list(unet.config.skip_channels)
    joined = [stage[0].norm1.weight.shape[0] for stage in unet.up.stages]
    below = [unet.config.down[-1].channels, *(stage[0].conv2.weight.shape[0] for stage in unet.up.stages)]
    assert widths[::-1] == [total - features for total, features in zip(joined, below[:-1], strict=True)]
    outputs = [stage[0].conv2.weight.shape[0] for stage in unet.down.stages if "conv2" in stage[0]]
    assert len(widths) == len(unet.down.stages) and set(outputs) <= set(widths)


def test_a_path_s_names_are_those_of_the_checkpoint():
    """Of a stage of each kind; every name is checked where checkpoints are converted."""
    unet = UNet(UNetConfig.from_hf(FAMILIES["sd1"]["unet"]))
    assert unet.down.names["stages.0.0"] == "conv_in"
    assert unet.down.names["stages.1.1"] == "down_blocks.0.attentions.0"
    assert unet.middle.names["layers.2"] == "mid_block.resnets.1"
    assert unet.up.names["stages.2.1"] == "up_blocks.0.upsamplers.0"
    assert unet.names["up.stages.2.1"] == "up_blocks.0.upsamplers.0"
