"""Scores of channels: Taylor's are what the loss changes by, to first order, over the timesteps that count."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_unflatten

from mlx_sd.core.errors import Failure
from mlx_sd.train.learning.examples import MicroBatch
from mlx_sd.train.learning.objective import Objective
from mlx_sd.train.learning.random_keys import Place
from mlx_sd.train.pruning import scores
from mlx_sd.train.pruning.channels import channels_of
from mlx_sd.train.pruning.slicing import weights_of
from tests.support import families
from tests.support.families import UNETS
from tests.train.pruning.small_unets import unet_of

CONFIG = UNETS["no_middle"] | {"sample_size": 4}
TIMESTEPS = [100, 900]


def objective() -> Objective:
    return Objective("epsilon", mx.linspace(0.999, 0.01, 1000))


@pytest.fixture(scope="module")
def network():
    """A small UNet, its loss, and two micro-batches."""
    unet = unet_of(CONFIG)
    context = mx.array(families.numbers("context", 2, 5, 32))

    def loss(batch: MicroBatch) -> mx.array:
        """The mean squared error of the noise."""
        return objective().loss(lambda x, t: unet(x, t, context)[0], batch.clean, batch.draws)

    batches = []
    for step in range(2):
        clean = mx.array(families.numbers(f"clean {step}", 2, 4, 4, 4))
        batches.append(MicroBatch(clean, objective().draw(0, [Place(step, 0), Place(step, 1)], (4, 4, 4))))
    return unet, loss, batches


def total(unet, loss, batches, changes) -> float:
    """The loss over all timesteps with other weights."""
    before = weights_of(unet)
    unet.update(tree_unflatten(list((before | changes).items())))
    at = [replace(b, draws=b.draws._replace(timesteps=mx.full((2,), t))) for t in TIMESTEPS for b in batches]
    value = sum(float(loss(batch).item()) for batch in at) / len(batches)
    unet.update(tree_unflatten(list(before.items())))
    return value


def test_the_products_of_a_channel_are_the_slope_of_the_loss_as_it_fades(network):
    """d/ds L(s w) at s = 1 is the sum of w dL/dw, by central differences."""
    unet, loss, batches = network
    arrays = scores.products(unet, loss, batches, TIMESTEPS, 0).arrays
    weights, channels = weights_of(unet), channels_of(unet)
    step = 1e-2
    for name in ("down.stages.0.0", "down.stages.3.1.blocks.0.down"):
        channel = 5
        slope, faded = 0.0, {-1: {}, 1: {}}
        for parameter, axis, spaces in channels.axes:
            sizes = np.cumsum([0, *(channels.spaces[s].size for s in spaces)])
            for space, start in zip(spaces, sizes, strict=False):
                if space == name:
                    index = [slice(None)] * weights[parameter].ndim
                    index[axis] = int(start) + channel
                    if axis == 0:  # what makes the channel; fading what reads it, too, would count it twice
                        slope += float(arrays[parameter][tuple(index)].sum().item())
                        for sign, changes in faded.items():
                            array = np.array(changes.get(parameter, weights[parameter]))
                            array[tuple(index)] *= 1 + sign * step
                            changes[parameter] = mx.array(array)
        difference = (total(unet, loss, batches, faded[1]) - total(unet, loss, batches, faded[-1])) / (2 * step)
        assert difference == pytest.approx(slope, rel=0.03, abs=2e-4), name


def test_a_score_is_the_change_of_the_loss_without_a_weight_to_first_order(network):
    unet, loss, batches = network
    arrays = scores.products(unet, loss, batches, TIMESTEPS, 0).arrays
    weights = weights_of(unet)
    parameter = "up.stages.3.0.norm2.weight"
    largest = np.argsort(-np.abs(np.asarray(arrays[parameter])))[:2]
    for channel in largest:
        values = {sign: np.array(weights[parameter]) for sign in (-1, 1)}
        for sign, array in values.items():
            array[channel] *= 1 + 0.02 * sign
        difference = total(unet, loss, batches, {parameter: mx.array(values[1])})
        difference -= total(unet, loss, batches, {parameter: mx.array(values[-1])})
        assert abs(difference) / 0.04 == pytest.approx(abs(arrays[parameter][int(channel)].item()), rel=0.03)


def test_timesteps_whose_loss_is_small_do_not_count(network):
    unet, loss, batches = network

    def graded(batch: MicroBatch) -> mx.array:
        """A loss that grows with the timestep."""
        return loss(batch) / mx.stop_gradient(loss(batch)) * batch.draws.timesteps[0].astype(mx.float32)

    result = scores.products(unet, graded, batches, TIMESTEPS, 0.5)
    assert [t.counts for t in result.timesteps] == [False, True]
    assert [t.loss for t in result.timesteps] == pytest.approx(TIMESTEPS)
    rest = scores.products(unet, graded, batches, TIMESTEPS[1:], 0)
    for name, array in rest.arrays.items():
        assert mx.allclose(result.arrays[name], array, rtol=1e-4, atol=1e-4), name
    every = scores.products(unet, graded, batches, TIMESTEPS, 0)
    assert all(t.counts for t in every.timesteps)
    assert not all(mx.allclose(every.arrays[n], a, rtol=1e-4, atol=1e-4) for n, a in rest.arrays.items())


def test_scores_are_sums_over_all_that_goes_with_a_channel(network):
    unet, _, _ = network
    channels, weights = channels_of(unet), weights_of(unet)
    result = scores.by_channel(channels, weights)
    hidden = "down.stages.3.1.blocks.0.down"
    path = hidden.removesuffix(".down")
    size = channels.spaces[hidden].size
    up, bias = np.abs(np.asarray(weights[f"{path}.up.weight"])), np.abs(np.asarray(weights[f"{path}.up.bias"]))
    expected = (
        (up.sum(1) + bias)[:size] + (up.sum(1) + bias)[size:] + np.abs(np.asarray(weights[f"{hidden}.weight"])).sum(0)
    )
    np.testing.assert_allclose(result[hidden], expected, rtol=1e-5)
    assert {name: score.shape for name, score in result.items()} == {n: (s.size,) for n, s in channels.spaces.items()}


def test_scores_at_random_are_a_function_of_the_seed(network):
    channels = channels_of(network[0])
    first, again, other = (scores.at_random(channels, seed) for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() and (first[name] != other[name]).any() for name in first)


def test_a_loss_that_is_not_finite_stops():
    unet = unet_of(CONFIG)
    batch = MicroBatch(mx.zeros((1, 4, 4, 4)), objective().draw(0, [Place(0, 0)], (4, 4, 4)))
    with pytest.raises(Failure, match="not finite"):
        scores.products(unet, lambda batch: mx.array(float("nan")), [batch], [5], 0.05)


def test_timesteps_are_spread_over_all():
    assert scores.spread_timesteps(1000, 4) == [125, 375, 625, 875]
    assert scores.spread_timesteps(3, 10) == [0, 1, 2]
