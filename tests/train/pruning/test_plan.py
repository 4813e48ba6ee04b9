"""Plans of pruning: they cost what they shall, keep whole groups and heads, and are configs that everyone reads."""

import functools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_sd.core.embedded import TINY
from mlx_sd.core.errors import InputError
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.train.pruning.channels import channels_of
from mlx_sd.train.pruning.plan import plan, select
from mlx_sd.train.pruning.scores import at_random
from mlx_sd.train.pruning.widths import TOLERANCE, WidthCosts, Widths, cost_of, heads_of
from tests.support.effort import slow_rows_but
from tests.support.families import FAMILIES, UNETS

EMBEDDED = json.loads((TINY / "unet" / "config.json").read_text(encoding="utf-8"))
FULL = {
    "embedded": EMBEDDED,
    "sd1": FAMILIES["sd1"]["unet"]
    | {"block_out_channels": [320, 640, 1280, 1280], "norm_num_groups": 32, "attention_head_dim": 8}
    | {"cross_attention_dim": 768, "sample_size": 64},
    "sdxl": FAMILIES["sdxl"]["unet"]
    | {"block_out_channels": [320, 640, 1280], "norm_num_groups": 32, "attention_head_dim": [5, 10, 20]}
    | {"cross_attention_dim": 2048, "sample_size": 128, "transformer_layers_per_block": [1, 2, 10]}
    | {"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816},
}


def planned(config, share, cost="macs"):
    """The plan of a UNet with random scores, and the UNet."""
    unet = UNet(UNetConfig.from_hf(config))
    return plan(unet, config, at_random(channels_of(unet), 0), share, cost), unet


@functools.cache
def planned_in_full(name, share, cost="macs"):
    return planned(FULL[name], share, cost)[0]


@pytest.mark.parametrize(
    ("name", "cost", "share"),
    slow_rows_but(
        [("embedded", "macs", 0.3)], [("embedded", "macs", 0.3), ("sd1", "parameters", 0.5), ("sdxl", "macs", 0.5)]
    ),
)
def test_a_plan_costs_what_it_shall(name, cost, share):
    result = planned_in_full(name, share, cost)
    counted = cost_of(UNetConfig.from_hf(result.config), cost)
    assert counted == result.cost_after
    assert abs(counted / (1 - share) / cost_of(UNetConfig.from_hf(FULL[name]), cost) - 1) <= TOLERANCE


@functools.cache
def width_costs(kind):
    """The costs of a UNet with three levels."""
    config = FAMILIES["sdxl"]["unet"] | {"block_out_channels": [32, 64, 96], "attention_head_dim": 4}
    return WidthCosts(config, channels_of(UNet(UNetConfig.from_hf(config))), kind)


@pytest.mark.slow
@settings(max_examples=5)
@given(ratios=st.tuples(*[st.integers(4, 10)] * 3), kind=st.sampled_from(["macs", "parameters"]))
def test_costs_are_a_polynomial_of_the_widths(ratios, kind):
    widths = tuple(2 * ratio * (level + 1) for level, ratio in enumerate(ratios))
    if len(set(widths)) < 3:  # levels that have become equal lose a layer
        return
    counted = width_costs(kind).count(Widths(widths, 1, (1, 1, 1)))
    assert math.isclose(width_costs(kind).at(np.array(widths))[0], counted, rel_tol=1e-6)


def test_costs_of_the_parameters_are_those_of_the_published_unet():
    assert cost_of(UNetConfig.from_hf(FULL["sd1"]), "parameters") == 859_520_964  # Stable Diffusion 1
    assert cost_of(UNetConfig.from_hf(FULL["sdxl"]), "parameters") == 2_567_463_684


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_something_of_every_space_remains_and_no_more_than_there_was(share):
    result, unet = planned(EMBEDDED, share)
    for name, space in channels_of(unet).spaces.items():
        indices = result.remaining[name]
        assert len(indices) == space.multiple * result.widths.channels[space.level]
        assert 0 < len(indices) <= space.size
        assert (np.diff(indices) > 0).all() and indices[0] >= 0 and indices[-1] < space.size


@pytest.mark.parametrize(
    "name", [n if n in ("sd1", "ssd1b") else pytest.param(n, marks=pytest.mark.slow) for n in (*FAMILIES, *UNETS)]
)
def test_all_kinds_of_unets_have_a_plan(name):
    config = FAMILIES[name]["unet"] if name in FAMILIES else UNETS[name]
    result, _ = planned(config, 0.3)
    before, after = UNetConfig.from_hf(config), UNetConfig.from_hf(result.config)
    assert after.embedding == before.embedding
    assert {name: value for name, value in result.config.items() if config.get(name, value) != value}.keys() <= {
        "block_out_channels",
        "norm_num_groups",
        "attention_head_dim",
    }
    for old, new in zip(before.down, after.down, strict=True):
        assert new.channels % new.heads == 0 and new.channels % after.groups == 0
        if old.transformers:  # heads are as large as before, or as many
            assert new.heads == old.heads or new.channels // new.heads == old.channels // old.heads


def test_levels_that_are_tied_stay_equally_wide():
    channels = planned_in_full("sd1", 0.5).widths.channels
    assert channels[2] == channels[3] < 1280


@pytest.mark.parametrize("name", ["embedded", "sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_levels_shrink_nearly_alike_and_norms_of_large_unets_keep_their_groups(name):
    widths = planned_in_full(name, 0.5).widths
    before = FULL[name]["block_out_channels"]
    ratios = [after / whole for after, whole in zip(widths.channels, before, strict=True)]
    assert max(ratios) / min(ratios) <= 1.25
    assert (widths.groups == 32) == (name != "embedded")  # whose finest groups have two channels


def test_the_best_groups_heads_and_channels_remain():
    config = FAMILIES["sd1"]["unet"] | {"block_out_channels": [32] * 4}
    unet = UNet(UNetConfig.from_hf(config))
    channels = channels_of(unet)
    scores = {name: np.arange(space.size, dtype=float) for name, space in channels.spaces.items()}
    before, after = Widths.of(unet.config), Widths((16,) * 4, 8, (2,) * 4)
    remaining = select(channels, scores, before, after)
    assert list(remaining["down.stages.0.0"]) == [4 * group + i for group in range(8) for i in (2, 3)]
    assert list(remaining["down.stages.1.1.blocks.0.attn1.q"]) == [*range(16, 32)]  # heads 2 and 3
    assert list(remaining["down.stages.1.1.blocks.0.down"]) == [*range(64, 128)]
    narrow = select(channels, scores, before, Widths((16,) * 4, 4, (4,) * 4))
    assert list(narrow["down.stages.0.0"]) == [*range(16, 32)]  # groups 4 to 7
    assert list(narrow["down.stages.1.1.blocks.0.attn1.v"]) == [8 * head + i for head in range(4) for i in range(4, 8)]


def test_queries_and_values_lose_the_same_heads():
    result, unet = planned(FAMILIES["sdxl"]["unet"], 0.5)
    spaces = channels_of(unet).spaces
    for name, space in spaces.items():
        size = space.size // max(space.heads, 1)
        if name.endswith(".q") and result.widths.heads[space.level] != space.heads:
            values = result.remaining[name.removesuffix("q") + "v"]
            assert set(result.remaining[name] // size) == set(values // size)


@pytest.mark.parametrize(
    ("width", "before", "heads", "attends", "expected"),
    [
        (192, 320, 5, True, 3),
        (288, 320, 8, True, 8),
        (56, 64, 4, True, 4),
        (90, 128, 4, True, 0),
        (90, 128, 4, False, 2),
    ],
)
def test_heads_keep_their_size_or_their_number(width, before, heads, attends, expected):
    assert heads_of(width, before, heads, attends) == expected


def test_a_share_that_would_remove_nothing_is_refused():
    with pytest.raises(InputError, match=r"the nearest is 0\.0\d"):
        planned(EMBEDDED, 0.01)


def test_shares_that_no_widths_have_are_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"no widths .* remove 0.98 of its macs; the nearest is 0\.\d\d\d"):
        planned(FAMILIES["sd1"]["unet"], 0.98)


def test_unets_of_another_class_are_refused():
    with pytest.raises(InputError, match="UNet2DConditionModel"):
        plan(UNet(UNetConfig.from_hf(EMBEDDED)), EMBEDDED | {"_class_name": "UNet2DModel"}, {}, 0.3)
