"""Weights that are cut by a plan: a network without channels that are zero is the network with them."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_unflatten

from mlx_sd.core.errors import Failure
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.train.pruning.channels import channels_of
from mlx_sd.train.pruning.plan import Plan, plan
from mlx_sd.train.pruning.scores import at_random
from mlx_sd.train.pruning.slicing import apply, cut, refit, weights_of
from mlx_sd.train.pruning.widths import Widths
from tests.support.effort import slow_but
from tests.support.families import FAMILIES, UNETS, distance
from tests.train.pruning import small_unets as small

EQUAL = {  # levels of one width, so that the groups of joined features are whole groups of both
    "sd1": FAMILIES["sd1"]["unet"] | {"block_out_channels": [32] * 4},
    "sd2v": FAMILIES["sd2v"]["unet"] | {"block_out_channels": [32] * 4, "attention_head_dim": 4},
    "sdxl": FAMILIES["sdxl"]["unet"] | {"block_out_channels": [32] * 3, "attention_head_dim": 4},
}
QUICK = ("lcm", "class_timestep", "scale_shift")


@pytest.mark.parametrize("name", slow_but(["sd2v"], EQUAL))
def test_a_smaller_unet_equals_the_whole_one_with_what_it_lacks_masked(name):
    config = EQUAL[name]
    unet = small.unet_of(config)
    levels = len(config["block_out_channels"])
    widths = Widths((16,) * levels, 4, (2,) * levels)
    channels = channels_of(unet)
    spaces = channels.spaces
    remaining = {name: np.arange(space.size // 2) + space.size // 4 // 8 * 8 for name, space in spaces.items()}
    for name, space in spaces.items():
        if name.endswith(".down"):
            remaining[name] = np.arange(1, space.size, 2)
    weights = small.centred(weights_of(unet), unet, channels, remaining)
    weights["embedding.timestep.linear1.weight"] *= 0  # no sinusoids, which have other lengths there
    unet.update(tree_unflatten(list(weights.items())))
    masked = UNet(unet.config)
    masked.update(tree_unflatten(list(small.masked(weights, channels, remaining).items())))
    expected = small.called(small._precise(masked), config)
    result = Plan(widths.change(config, unet.config.embedding), widths, remaining, 0, 0)
    smaller = small._precise(UNet(UNetConfig.from_hf(result.config)))
    rescaled = small.rescaled(apply(unet, result), unet, channels, remaining)
    smaller.load_weights(list(rescaled.items()), strict=True)
    assert distance(small.called(smaller, config), expected) <= 3e-6
    assert distance(small.called(unet, config), expected) > 0.1


def test_scores_of_attentions_stay_where_heads_lose_features_that_are_zero():
    config = EQUAL["sd1"]
    unet = small.unet_of(config)
    channels = channels_of(unet)
    path = "down.stages.1.1.blocks.0.attn1"
    remaining = {f"{path}.q": np.array([i for i in range(32) if i % 8 < 3])}
    weights = small.masked(weights_of(unet), channels, small.without(channels, set()) | remaining)
    smaller = cut(weights, channels, remaining)

    def logits(weights: dict[str, mx.array]) -> np.ndarray:
        """Queries times keys of a sequence, divided by the root of the size of a head."""
        x = mx.random.normal((5, 32), key=mx.random.key(0))
        q, k = (x @ weights[f"{path}.{name}.weight"].T for name in "qk")
        q, k = (y.reshape(5, 4, -1).transpose(1, 0, 2) for y in (q, k))
        return np.asarray(q @ k.transpose(0, 2, 1)) / q.shape[-1] ** 0.5

    np.testing.assert_allclose(logits(smaller), logits(weights), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in (*FAMILIES, *UNETS)]
)
def test_weights_that_are_cut_are_all_that_the_smaller_unet_has(name):
    config = FAMILIES[name]["unet"] if name in FAMILIES else UNETS[name]
    unet = small.unet_of(config)
    result = plan(unet, config, at_random(channels_of(unet), 0), 0.3)
    smaller = UNet(UNetConfig.from_hf(result.config))
    smaller.load_weights(list(apply(unet, result).items()), strict=True)
    prediction = small.called(smaller, config)
    assert prediction.shape == small.called(unet, config).shape and np.isfinite(prediction).all()


def test_a_plan_of_another_unet_is_refused():
    config = FAMILIES["sd1"]["unet"]
    unet = small.unet_of(config)
    result = plan(unet, config, at_random(channels_of(unet), 0), 0.3)
    with pytest.raises(Failure, match="does not fit"):
        apply(small.unet_of(config | {"layers_per_block": 1}), result)


def test_sinusoids_of_another_width_are_read_as_closely_as_they_can_be():
    """Where the layer reads slow waves alone, sinusoids of another width tell it the same."""
    config = FAMILIES["sd1"]["unet"]
    unet = small.unet_of(config)
    weight = np.array(unet.embedding.timestep.linear1.weight)
    weight[:, [*range(8), *range(16, 24)]] = 0  # the fast half of the cosines and of the sines
    unet.embedding.timestep.linear1.weight = mx.array(weight)
    t = mx.arange(0, 1000, 7).astype(mx.float32)
    before = np.asarray(unet.embedding(t, mx.float32))
    smaller = UNet(UNetConfig.from_hf(config | {"block_out_channels": [24, 24, 64, 64], "time_embedding_dim": 128}))
    weights = weights_of(unet) | refit(unet, "embedding.timestep", 24)
    smaller.embedding.update(
        tree_unflatten([(n.removeprefix("embedding."), a) for n, a in weights.items() if n.startswith("embedding.")])
    )
    after = np.asarray(smaller.embedding(t, mx.float32))
    assert np.sqrt(((after - before) ** 2).mean() / before.var()) < 0.05
    assert np.abs(np.asarray(smaller.embedding.timestep.linear1.weight)).max() < 20  # float16 can hold it


def test_an_embedded_guidance_adds_what_it_added():
    unet = small.unet_of(UNETS["lcm"])
    weights = refit(unet, "embedding.timestep", 24)
    before = unet.embedding.timestep.linear1.weight @ unet.embedding.timestep.guidance.weight
    after = weights["embedding.timestep.linear1.weight"] @ weights["embedding.timestep.guidance.weight"]
    assert after.shape == before.shape
    assert mx.square(after - before).mean() < 0.9 * mx.square(before).mean()  # 24 numbers for 32
