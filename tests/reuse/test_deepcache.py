"""DeepCache: what is reused changes nothing, and what is due is computed."""

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_sd import At, DeepCache
from mlx_sd.core.errors import InputError
from mlx_sd.networks import ops
from mlx_sd.reuse.deepcache import Reuse
from mlx_sd.sampling import loop, samplers
from mlx_sd.sampling.denoise import guide
from tests.support import families
from tests.support.families import FAMILIES

SHAPES = ("sd1", "sd2v", "sdxl")
BRANCHES = {"sd1": 12, "sd2v": 8, "sdxl": 9}  # skips of the UNet: conv_in, its resnets, its downsamplers
SIDE = st.integers(1, 11)


def inputs(name: str, height: int, width: int, batch: int) -> dict[str, mx.array]:
    made = families.unet_inputs(FAMILIES[name]["unet"], (height, width), batch)
    return {key: mx.array(value) for key, value in made.items()}


def generate(sd, **settings):
    given = {"steps": 7, "guidance": families.GUIDANCE, "seed": families.SEED, "output": "latent"}
    return sd.generate(families.PROMPT, families.NEGATIVE, **(given | settings))


@pytest.mark.parametrize("name", SHAPES)
def test_there_is_a_branch_for_every_skip(name, family):
    assert family(name).unet.branches == range(BRANCHES[name])


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), height=SIDE, width=SIDE, batch=st.integers(1, 3))
def test_cached_is_full_bit_for_bit_on_the_same_inputs(name, family, data, height, width, batch):
    branch = data.draw(st.integers(0, BRANCHES[name] - 1))
    unet, given_ = family(name).unet, inputs(name, height, width, batch)
    full, deep = unet(**given_, depth=branch + 1)
    cached, kept = unet(**given_, deep=deep, depth=branch + 1)
    assert mx.array_equal(cached, full)
    assert mx.array_equal(kept, deep)


@pytest.mark.parametrize("name", SHAPES)
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


@pytest.mark.parametrize("name", SHAPES)
def test_a_cached_pass_sees_this_step_s_latents_and_that_step_s_features(name, family):
    unet, now, before = family(name).unet, inputs(name, 8, 8, 1), inputs(name, 8, 8, 1)
    before["x"] = mx.array(families.numbers("earlier", *before["x"].shape))
    for branch in unet.branches:
        full, _ = unet(**now, depth=branch + 1)
        stale, _ = unet(**before, depth=branch + 1)
        cached, _ = unet(**now, deep=unet(**before, depth=branch + 1)[1], depth=branch + 1)
        assert not mx.array_equal(cached, full), f"branch {branch}: the features that were handed in are not used"
        assert not mx.array_equal(cached, stale), f"branch {branch}: the latents are not looked at"


@given(interval=st.integers(1, 60), evaluations=st.integers(0, 120), branch=st.integers(0, 11))
def test_one_evaluation_in_n_is_full_and_the_first_is(interval, evaluations, branch):
    reuse, given_ = Reuse(DeepCache(interval, branch), range(evaluations)), []

    def unet(deep, depth):
        assert depth == branch + 1
        given_.append(deep)
        return mx.zeros(()), mx.array(len(given_) - 1 if deep is None else deep.item())

    for _ in range(evaluations):
        reuse(unet)
    assert (reuse.evaluations, reuse.full) == (evaluations, math.ceil(evaluations / interval))
    # Each is full, or is handed what the latest full one gave.
    for i, deep in enumerate(given_):
        assert (deep is None) if i % interval == 0 else (deep.item() == i - i % interval)


@pytest.mark.parametrize("sampler", samplers.names())
@pytest.mark.parametrize("interval", [2, 3, 5])
def test_a_generation_counts_evaluations_not_steps(sampler, interval, family):
    calls = []
    result = generate(
        family("sd1"), steps=5, sampler=sampler, deepcache=DeepCache(interval), callback=lambda *a: calls.append(a[:2])
    )
    assert result.evaluations == len(calls) >= 5
    assert result.full == math.ceil(result.evaluations / interval)


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_survives_a_generation(name, family):
    first = generate(family(name), deepcache=DeepCache(3, 1))
    generate(family(name), steps=5, seed=77, deepcache=DeepCache(5, 2))
    again = generate(family(name), deepcache=DeepCache(3, 1))
    assert mx.array_equal(first.latents, again.latents)


@pytest.mark.parametrize("name", SHAPES)
def test_interval_one_is_no_cache_at_all(name, family):
    plain = generate(family(name))
    for branch in (0, BRANCHES[name] - 1):
        every = generate(family(name), deepcache=DeepCache(1, branch))
        assert mx.array_equal(every.latents, plain.latents)
        assert every.full == every.evaluations
    assert not mx.array_equal(generate(family(name), deepcache=DeepCache(2)).latents, plain.latents)


def by_hand(sd, sampler: str | None, steps: int, due: Sequence[int], branch: int) -> mx.array:
    """Final latents of a loop that computes the whole UNet at the evaluations `due`."""
    noise = mx.array(families.noise())
    context = mx.concatenate([sd.encode_prompt(text)[0] for text in (families.NEGATIVE, families.PROMPT)])
    asked, kept = 0, None

    def predict(x: mx.array, t: float) -> mx.array:
        nonlocal asked, kept
        both, time = mx.concatenate([x, x]), mx.array(t)
        if asked in due:
            output, kept = sd.unet(both, time, context, depth=branch + 1)
        else:
            output, _ = sd.unet(both, time, context, deep=kept, depth=branch + 1)
        asked += 1
        return guide(output, families.GUIDANCE)

    stream = np.random.RandomState(families.SEED)

    def normal() -> mx.array:  # channel-first, as the pipeline draws
        drawn = stream.standard_normal((noise.shape[3], *noise.shape[1:3])).astype(np.float32)
        return mx.array(drawn.transpose(1, 2, 0)[None])

    table = samplers.table(sd.model.scheduler, *samplers.choose(sd.model.scheduler, sampler, None), steps)
    return loop.run(table, predict, noise, normal)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(interval=st.integers(2, 4), branch=st.integers(0, 11), steps=st.integers(2, 6))
def test_a_cached_generation_is_the_loop_written_by_hand(interval, branch, steps, family):
    how = {"latents": mx.array(families.noise()), "steps": steps, "deepcache": DeepCache(interval, branch)}
    ours = generate(family("sd1"), **how)
    assert mx.array_equal(ours.latents, by_hand(family("sd1"), None, steps, range(0, 2 * steps, interval), branch))


@pytest.mark.parametrize("sampler", samplers.names())
def test_under_every_sampler_it_is_the_loop_written_by_hand(sampler, family):
    how = {"latents": mx.array(families.noise()), "steps": 6, "sampler": sampler, "deepcache": At((0, 1, 4, 7), 2)}
    ours = generate(family("sd1"), **how)
    assert mx.array_equal(ours.latents, by_hand(family("sd1"), sampler, 6, (0, 1, 4, 7), 2))


def test_a_branch_that_is_not_there_is_refused(family):
    with pytest.raises(InputError, match="no DeepCache branch 12 in this UNet; it has 0 to 11"):
        generate(family("sd1"), deepcache=DeepCache(2, 12))
