"""Which control networks act when, what they see, and what a cached evaluation with them costs."""

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.models import UNETS
from mlx_sd.checkpoint.control import Control
from mlx_sd.condition_rows import Conditions
from mlx_sd.controller import Branch, Controller
from mlx_sd.networks.control import ControlNet, Residuals
from mlx_sd.networks.control_config import ControlConfig
from mlx_sd.networks.counting import counting
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.predictor import Predictor
from mlx_sd.reuse.deepcache import DeepCache
from mlx_sd.reuse.policy import Policy
from mlx_sd.reuse.tgate import TGate, caches


class _Config(NamedTuple):
    unet: Any
    pools: bool = False


class _Sizes(NamedTuple):
    added_time_dims: None = None


class FakeNetwork:
    """A control network that returns its inputs, and notes its calls."""

    def __init__(self, pools: bool = False):
        self.config = _Config(_Sizes(), pools)
        self.calls: list[dict[str, Any]] = []

    def __call__(self, x, t, context, image, *, depth, scale, **how):
        self.calls.append({"x": x, "context": context, "depth": depth, **how})
        skips = [scale * (x + image) for _ in range(3 if depth is None else depth)]
        return Residuals(skips, scale * x if depth is None else None)


def branch(network: Any, scale: float = 1.0, start: float = 0.0, end: float = 1.0) -> Branch:
    return Branch(Control("model", "image", scale, start, end), network, mx.ones((1, 2, 2, 1)))


def conditions(count: int = 1, guided: bool = True) -> Conditions:
    rows = [0.0] * count + [1.0] * count if guided else [1.0] * count
    return Conditions(mx.array(rows).reshape(-1, 1, 1), {}, guided)


LATENTS, TIME = mx.full((1, 2, 2, 1), 3.0), mx.array(10.0)


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.floats(0, 0.9), st.floats(0.05, 1), st.sampled_from([0.0, 1.0])), min_size=1, max_size=3),
)
def test_it_changes_where_another_set_of_networks_acts(count, spans):
    networks = [branch(FakeNetwork(), scale, start, min(start + length, 1.0)) for start, length, scale in spans]
    controller = Controller(networks, count)
    sets = []
    for i in range(count):
        before = [len(b.network.calls) for b in networks]
        residuals = controller.residuals(i, LATENTS, TIME, conditions(), None)
        acting = [len(b.network.calls) > n for b, n in zip(networks, before, strict=True)]
        assert (residuals is None) == (not any(acting))
        assert acting == [b.control.acts(i, count) and b.control.scale != 0 for b in networks]
        sets.append(acting)
    assert controller.changes == [i for i in range(1, count) if sets[i] != sets[i - 1]]


def test_several_networks_are_summed():
    first, second = branch(FakeNetwork(), 0.5), branch(FakeNetwork(), 2.0)
    total = Controller([first, second], 4).residuals(0, LATENTS, TIME, conditions(), 2)
    assert len(total.skips) == 2 and total.middle is None
    assert mx.allclose(total.skips[0], mx.full((2, 2, 2, 1), 2.5 * 4))
    full = Controller([first, second], 4).residuals(0, LATENTS, TIME, conditions(), None)
    assert len(full.skips) == 3 and mx.allclose(full.middle, mx.full((2, 2, 2, 1), 2.5 * 3))


@pytest.mark.parametrize("reason", ["guess", "pools"])
def test_without_a_prompt_nothing_is_added_in_guess_mode_and_by_pooled_networks(reason):
    network = FakeNetwork(pools=reason == "pools")
    controller = Controller([branch(network)], 4, guess=reason == "guess")
    residuals = controller.residuals(0, LATENTS, TIME, conditions(), None)
    (call,) = network.calls
    assert call["x"].shape[0] == 1 and call["context"].item() == 1.0  # the prompt's row alone
    for array in (*residuals.skips, residuals.middle):
        assert array.shape[0] == 2 and not array[0].any() and array[1].all()


class FakeUNet:
    """A UNet that counts which levels it runs, and notes the rows that it sees."""

    dtype = mx.float32

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, x, t, context, *, deep, depth, skip_residuals, middle_residual, **how):
        self.calls.append({"rows": x.shape[0], "deep": deep, "skips": skip_residuals, "middle": middle_residual})
        return mx.zeros_like(x), x


def run(policy: Policy | None, branches: list[Branch], count: int, tgate: TGate | None = None) -> FakeUNet:
    unet, controller = FakeUNet(), Controller(branches, count)
    levels = [float(i) for i in range(count)]
    features, attention = caches(policy, tgate, levels, guided=True, restarts=controller.changes)
    predict = Predictor(unet, conditions(), 5.0, features, tgate=attention, control=controller)
    for _ in range(count):
        predict(LATENTS, 1.0)
    return unet


def test_a_cached_evaluation_gets_fresh_residuals_of_the_outer_skips_alone():
    network = FakeNetwork()
    unet = run(DeepCache(3, 1), [branch(network)], 7)
    for i, (call, of_network) in enumerate(zip(unet.calls, network.calls, strict=True)):
        full = i % 3 == 0
        assert (call["deep"] is None) == full and len(call["skips"]) == (3 if full else 2)
        assert (call["middle"] is not None) == full and of_network["depth"] == (None if full else 2)


def test_a_network_that_begins_or_ends_forces_a_full_evaluation():
    networks = [branch(FakeNetwork(), 1.0, 0.0, 0.5), branch(FakeNetwork(), 1.0, 0.2, 1.0)]
    unet = run(DeepCache(5, 0, 2), networks, 10)
    full = [i for i, call in enumerate(unet.calls) if call["deep"] is None]
    assert full == [0, 2, 5]  # 2: the second begins; 5: the first has ended, and the interval


def test_a_forecast_never_reaches_back_over_a_change():
    """Deep features are the evaluation's number here, so that a line through two of them shows which they are."""
    log: list[float] = []

    class Numbered(FakeUNet):
        def __call__(self, x, t, context, *, deep, **how):
            log.append(float("nan") if deep is None else deep.item())
            return mx.zeros_like(x), mx.array(float(len(log) - 1))

    controller = Controller([branch(FakeNetwork(), 1.0, 0.0, 0.5)], 12)
    features, _ = caches(
        DeepCache(2, 0, 1), None, [float(i) for i in range(12)], guided=True, restarts=controller.changes
    )
    predict = Predictor(Numbered(), conditions(), 5.0, features, control=controller)
    for _ in range(12):
        predict(LATENTS, 1.0)
    assert np.isnan(log[6]) and log[7] == 6  # a line through 4 and 6 would be 7 there
    assert log[9] > 8  # and through 6 and 8 it may be


def test_past_the_gate_a_network_sees_the_prompt_and_the_unet_has_half_the_rows():
    network = FakeNetwork()
    unet = run(None, [branch(network)], 4, TGate(2))
    assert [call["rows"] for call in unet.calls] == [2, 2, 1, 1]
    assert [call["context"].flatten().tolist() for call in network.calls] == [[0, 1], [0, 1], [1], [1]]
    assert [call["skips"][0].shape[0] for call in unet.calls] == [2, 2, 1, 1]


SD15 = UNETS["sd15"]
CONTROL = {name: SD15[name] for name in SD15 if name not in ("up_block_types", "sample_size")}


def multiplications(policy: Policy | None, steps: int = 50) -> int:
    """Those of guided evaluations of SD 1.5 with one ControlNet, at 512 x 512; the image is embedded once."""
    unet, network = UNet(UNetConfig.from_hf(SD15)), ControlNet(ControlConfig.from_hf(CONTROL))
    latents, context = mx.zeros((1, 64, 64, 4)), mx.zeros((2, 77, 768))
    with counting(unet) as operations:
        image = network.embed(mx.zeros((1, 512, 512, 3)))
        controller = Controller([Branch(Control("m", "i"), network, image)], steps)
        features, _ = caches(policy, None, [float(i) for i in range(steps)], guided=True, restarts=controller.changes)
        predict = Predictor(unet, Conditions(context, {}, True), 7.5, features, control=controller)
        for _ in range(steps):
            predict(latents, 500.0)
    return sum(operation.macs for operation in operations)


@pytest.mark.slow
def test_with_a_control_network_a_cached_loop_saves_what_it_saves_without():
    full = multiplications(None)
    assert pytest.approx(full, rel=0.02) == 50 * 2 * (401e9 + 141e9)
    for interval, least in ((3, 2.4), (5, 3.5)):
        ratio = full / multiplications(DeepCache(interval))
        assert least <= ratio, f"{ratio:.2f} at {interval}"
        print(f"{ratio:.3f} times fewer at interval {interval}")
