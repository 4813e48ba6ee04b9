"""Cached passes of the UNet: on the same inputs they equal full ones, bit for bit, at every branch."""

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_sd.networks import ops
from tests.support import families
from tests.support.effort import slow_but
from tests.support.families import FAMILIES

SHAPES = ("sd1", "sd2v", "sdxl")
BRANCHES = {"sd1": 12, "sd2v": 8, "sdxl": 9}  # skips of the UNet: conv_in, its resnets, its downsamplers
SIDE = st.integers(1, 11)


def inputs(name: str, height: int, width: int, batch: int) -> dict[str, mx.array]:
    arrays = families.unet_inputs(FAMILIES[name]["unet"], (height, width), batch)
    return {key: mx.array(value) for key, value in arrays.items()}


@pytest.mark.parametrize("name", SHAPES)
def test_there_is_a_branch_for_every_skip(name, family):
    assert family(name).unet.branches == range(BRANCHES[name])


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), height=SIDE, width=SIDE, batch=st.integers(1, 3))
def test_cached_is_full_bit_for_bit_on_the_same_inputs(name, family, data, height, width, batch):
    branch = data.draw(st.integers(0, BRANCHES[name] - 1))
    unet, given_ = family(name).unet, inputs(name, height, width, batch)
    full, deep = unet(**given_, depth=branch + 1)
    cached, kept = unet(**given_, deep=deep, depth=branch + 1)
    assert mx.array_equal(cached, full)
    assert mx.array_equal(kept, deep)


@pytest.mark.parametrize("name", slow_but(["sd2v"], SHAPES))
def test_cached_is_full_bit_for_bit_at_every_branch_of_an_odd_size(name, family):
    unet, given_ = family(name).unet, inputs(name, 9, 5, 2)
    plain, _ = unet(**given_)
    for branch in unet.branches:
        full, deep = unet(**given_, depth=branch + 1)
        cached, _ = unet(**given_, deep=deep, depth=branch + 1)
        assert mx.array_equal(full, plain), f"branch {branch}"
        assert mx.array_equal(cached, plain), f"branch {branch}"


@pytest.mark.parametrize("name", SHAPES)
def test_a_cached_pass_does_less_the_smaller_its_branch(name, family):
    unet, given_ = family(name).unet, inputs(name, 8, 8, 1)

    def operations(**cache) -> int:
        count = 0

        def note(kind, function, arrays, attributes):
            nonlocal count
            count += 1
            return function(*arrays, **attributes)

        with ops.recording(note):
            unet(**given_, **cache)
        return count

    counts = [operations()]
    for branch in reversed(unet.branches):
        counts.append(operations(deep=unet(**given_, depth=branch + 1)[1], depth=branch + 1))
    assert counts == sorted(set(counts), reverse=True)


@pytest.mark.parametrize("name", slow_but(["sd2v"], SHAPES))
def test_a_cached_pass_sees_this_step_s_latents_and_that_step_s_features(name, family):
    unet, now, before = family(name).unet, inputs(name, 8, 8, 1), inputs(name, 8, 8, 1)
    before["x"] = mx.array(families.numbers("earlier", *before["x"].shape))
    for branch in unet.branches:
        full, _ = unet(**now, depth=branch + 1)
        stale, _ = unet(**before, depth=branch + 1)
        cached, _ = unet(**now, deep=unet(**before, depth=branch + 1)[1], depth=branch + 1)
        assert not mx.array_equal(cached, full), f"branch {branch}: the features that were handed in are not used"
        assert not mx.array_equal(cached, stale), f"branch {branch}: the latents are not looked at"
