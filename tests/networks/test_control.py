"""A control network computes what is asked for and no more, and a cached pass of the UNet with it equals a full one."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.core.errors import InputError
from mlx_sd.networks import ops
from mlx_sd.networks.control import ControlNet
from mlx_sd.networks.control_config import ControlConfig
from mlx_sd.networks.unet_config import UNetConfig
from tests.support import controls, families
from tests.support.effort import slow_but
from tests.support.families import FAMILIES

NAMES = ("sd1", "sd2v", "sdxl")
SIZE = (9, 5)  # rounded up at every downsampling


def network(kind: str, zeros: bool = False, **changes) -> ControlNet:
    family, kind_changes = controls.KINDS[kind]
    built = ControlNet(ControlConfig.from_hf(controls.config(family, **kind_changes, **changes)))
    mx.random.seed(3)
    if not zeros:
        outputs = [*built.skip_outputs, built.middle_output]
        for layer in outputs:
            layer.update({"weight": mx.random.normal(layer.weight.shape) / layer.weight.shape[0] ** 0.5})
    return built


def inputs(name: str) -> dict[str, mx.array]:
    return {key: mx.array(value) for key, value in families.unet_inputs(FAMILIES[name]["unet"], SIZE).items()}


def embedded(net: ControlNet) -> mx.array:
    factor = net.config.downsampling
    pixels = np.asarray(controls.image(size=(SIZE[1] * factor, SIZE[0] * factor)), np.float32)[None] / 255
    return net.embed(mx.array(pixels))


def called(net: ControlNet, kwargs: dict[str, mx.array], **how):
    arrays = dict(kwargs)
    return net(arrays.pop("x"), arrays.pop("t"), arrays.pop("context"), embedded(net), **arrays, **how)


@pytest.mark.parametrize("kind", slow_but(["sd1", "sdxl-small"], controls.KINDS))
def test_the_residuals_of_the_first_stages_are_those_of_the_whole_network_bit_for_bit(kind):
    net, kwargs = network(kind), inputs(controls.KINDS[kind][0])
    full = called(net, kwargs)
    for depth in range(1, len(full.skips) + 1):
        outer = called(net, kwargs, depth=depth)
        assert outer.middle is None and len(outer.skips) == depth
        for ours, theirs in zip(outer.skips, full.skips, strict=False):
            assert mx.array_equal(ours, theirs)


@pytest.mark.parametrize("name", slow_but(["sd1"], NAMES))
def test_a_cached_pass_with_control_is_a_full_one_bit_for_bit_at_every_branch(name, family):
    unet, net, kwargs = family(name).unet, network(name), inputs(name)
    full = called(net, kwargs)
    plain, _ = unet(**kwargs)
    with_control, _ = unet(**kwargs, skip_residuals=full.skips, middle_residual=full.middle)
    change = mx.abs(with_control - plain).max() / mx.abs(plain).max()
    assert change.item() >= 0.1
    for branch in unet.branches:
        again, deep = unet(**kwargs, skip_residuals=full.skips, middle_residual=full.middle, depth=branch + 1)
        outer = called(net, kwargs, depth=branch + 1)
        cached, _ = unet(**kwargs, skip_residuals=outer.skips, deep=deep, depth=branch + 1)
        assert mx.array_equal(again, with_control), f"branch {branch}"
        assert mx.array_equal(cached, with_control), f"branch {branch}"


@pytest.mark.parametrize("name", slow_but(["sdxl"], NAMES))
def test_a_network_that_was_not_trained_adds_nothing_bit_for_bit(name, family):
    unet, net, kwargs = family(name).unet, network(name, zeros=True), inputs(name)
    residuals = called(net, kwargs)
    with_control, _ = unet(**kwargs, skip_residuals=residuals.skips, middle_residual=residuals.middle)
    assert mx.array_equal(with_control, unet(**kwargs)[0])


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_fewer_residuals_cost_less(kind):
    net, kwargs = network(kind), inputs(kind)
    image = embedded(net)

    def operations(depth: int | None) -> int:
        count = 0

        def note(name, function, arrays, attributes):
            nonlocal count
            count += 1
            return function(*arrays, **attributes)

        with ops.recording(note):
            arrays = dict(kwargs)
            net(arrays.pop("x"), arrays.pop("t"), arrays.pop("context"), image, **arrays, depth=depth)
        return count

    counts = [operations(depth) for depth in (*range(1, len(net.skip_outputs) + 1), None)]
    assert counts == sorted(set(counts))


def test_guess_mode_weakens_fine_levels_as_diffusers_does():
    net, kwargs = network("sd1"), inputs("sd1")
    plain, guessed = called(net, kwargs, scale=2.0), called(net, kwargs, scale=2.0, guess=True)
    factors = np.logspace(-1, 0, len(plain.skips) + 1)
    for a, b, factor in zip([*plain.skips, plain.middle], [*guessed.skips, guessed.middle], factors, strict=True):
        np.testing.assert_allclose(np.asarray(b), np.asarray(a) * factor, rtol=1e-5, atol=1e-6)


MISFITS = {
    ("sd1", "sdxl"): "4 levels, and the model has 3",
    ("sdxl", "sd1"): "3 levels, and the model has 4",
    ("sd2v", "sd1"): "skips of the widths",
}


@pytest.mark.parametrize("pair", MISFITS, ids="-".join)
def test_a_network_of_another_family_says_in_which_way_it_does_not_fit(pair):
    own, other = pair
    config = ControlConfig.from_hf(controls.config(own))
    unet = UNetConfig.from_hf(FAMILIES[other]["unet"])
    assert MISFITS[pair] in config.misfit(unet, 4, config.downsampling)
    assert config.misfit(UNetConfig.from_hf(FAMILIES[own]["unet"]), 4, config.downsampling) is None
    assert "pixels for a latent" in config.misfit(UNetConfig.from_hf(FAMILIES[own]["unet"]), 4, 16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"controlnet_conditioning_channel_order": "gbr"}, "controlnet_conditioning_channel_order = 'gbr'"),
        ({"_class_name": "SparseControlNetModel"}, "_class_name = 'SparseControlNetModel' is not supported"),
        ({"dance": 1}, "unknown field(s) dance"),
        ({"encoder_hid_dim": 8}, "encoder_hid_dim"),
    ],
)
def test_a_config_that_is_not_supported_is_named(change, words):
    with pytest.raises(InputError) as error:
        ControlConfig.from_hf(controls.config("sd1", **change))
    assert words in str(error.value)


def test_a_network_with_transformers_needs_a_context():
    net, kwargs = network("sd1"), inputs("sd1")
    with pytest.raises(InputError, match="takes a context"):
        net(kwargs["x"], kwargs["t"], None, embedded(net))
