"""DeepCache's policies: which evaluations are full, and what the others are given."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mlx_sd import Adaptive, At, DeepCache, NonUniform
from mlx_sd.core.errors import InputError
from mlx_sd.reuse.deepcache import Reuse, forecast, parse
from mlx_sd.sampling import samplers
from tests.support import families

BRANCH, DEGREE = st.integers(0, 11), st.integers(0, 2)
POLICIES = st.one_of(
    st.builds(DeepCache, st.integers(1, 60), BRANCH, DEGREE),
    st.builds(NonUniform, st.integers(1, 60), st.none() | st.integers(0, 99), st.floats(1.01, 9), BRANCH, DEGREE),
    st.builds(At, st.sets(st.integers(1, 99)).map(lambda s: (0, *sorted(s))), BRANCH, DEGREE),
    st.builds(Adaptive, st.floats(0, math.inf), BRANCH, DEGREE),
)
slow = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def generate(sd, policy, **how):
    how = {"steps": 7, "guidance": families.GUIDANCE, "seed": families.SEED, "output": "latent"} | how
    return sd.generate(families.PROMPT, families.NEGATIVE, deepcache=policy, **how)


@given(POLICIES)
def test_a_policy_prints_as_what_deepcache_takes(policy):
    assert parse(str(policy)) == policy


@given(st.text(st.sampled_from("0123456789.,:+-=atdpivenoufrmcs "), max_size=30))
def test_what_is_not_a_policy_is_refused_in_one_line(text):
    try:
        assert parse(str(parse(text))) == parse(text)
    except InputError as error:
        assert "\n" not in str(error)


def test_nonuniform_steps_are_the_papers():
    """The authors' own list for 50 steps: below the centre the real part of a complex root, not a signed one."""
    assert NonUniform(5, 15, 1.4).due(50) == [0, 5, 9, 13, 17, 21, 26, 31, 37, 43]
    assert NonUniform(5).due(50) == NonUniform(5, 15, 1.4).due(50)


@given(st.integers(2, 20), st.integers(1, 120), st.floats(1.05, 3))
def test_nonuniform_is_one_in_n(interval, evaluations, power):
    try:
        due = NonUniform(interval, None, power).due(evaluations)
    except InputError:
        assume(False)
    assert len(due) == math.ceil(evaluations / interval)
    assert due[0] == 0 and due == sorted(set(due)) and due[-1] < evaluations


class Deep:
    """A network whose deep features are a given function of the log-SNR, and which notes what it is handed."""

    def __init__(self, features, shallow=lambda level: mx.ones(1)):
        self.features, self.shallow, self.handed = features, shallow, []

    def run(self, policy, levels):
        reuse = Reuse(policy, levels)
        for level in levels:

            def unet(deep, depth, level=level):
                deep = deep(self.shallow(level)) if callable(deep) else deep
                self.handed.append(deep)
                return mx.zeros(()), self.features(level) if deep is None else deep

            reuse(unet)
        return reuse


@given(
    st.lists(st.floats(0.3, 1), min_size=3, max_size=3),
    st.integers(0, 2),
    st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    st.floats(-0.5, 2),
)
def test_a_forecast_of_degree_k_is_exact_for_polynomials_of_degree_k(gaps, degree, coefficients, place):
    """As far as it reaches: half the way between the last two; beyond, it says what it says there."""
    levels = (np.cumsum(gaps) - 2)[-1 - degree :]

    def features(level):
        return mx.array([sum(c * level**i for i, c in enumerate(coefficients[: degree + 1]))], dtype=mx.float32)

    gap = levels[-1] - levels[-2] if degree else 0
    found = forecast([(level, features(level)) for level in levels], levels[-1] + place * gap)
    assert abs(found.item() - features(levels[-1] + min(place, 0.5) * gap).item()) < 1e-4


@given(st.integers(0, 2), st.integers(1, 6), st.integers(1, 30))
def test_a_forecast_is_of_the_latest_full_evaluations(degree, interval, evaluations):
    """Of so many as there are, at most degree + 1: lines are met after two of them, whatever the levels."""
    levels, line = [i**1.5 for i in range(evaluations)], Deep(lambda level: mx.array([level]))
    line.run(DeepCache(interval, forecast=degree), levels)
    for i, handed in enumerate(line.handed):
        last = i - i % interval
        if last == i:
            assert handed is None
            continue
        gap = levels[last] - levels[last - interval] if degree and last else 0
        assert math.isclose(handed.item(), min(levels[i], levels[last] + gap / 2), rel_tol=1e-4)


def test_a_forecast_keeps_float16():
    found = forecast([(0.0, mx.array([1.0], dtype=mx.float16)), (2.0, mx.array([2.0], dtype=mx.float16))], 3.0)
    assert (found.dtype, found.item()) == (mx.float16, 2.5)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=20), DEGREE, st.integers(1, 3))
def test_levels_that_come_again_do_no_harm(levels, degree, interval):
    """Heun asks twice at one level, and churn goes back."""
    network = Deep(lambda level: mx.array([7.0]))
    network.run(DeepCache(interval, forecast=degree), levels)
    assert all(abs(handed.item() - 7) < 1e-3 for handed in network.handed if handed is not None)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0.01, 2))
def test_an_adaptive_evaluation_is_full_when_the_shallow_features_have_moved(places, threshold):
    shallow = iter(places)
    network = Deep(lambda level: mx.zeros(1), lambda level: mx.array([9.0, next(shallow)]))
    network.run(Adaptive(threshold), [0.0] * len(places))
    kept = np.array([9.0, places[0]])
    for i, (place, handed) in enumerate(zip(places, network.handed, strict=True)):
        now = np.array([9.0, place])
        moved = np.linalg.norm(now - kept) / np.linalg.norm(kept)
        assume(abs(moved - threshold) > 1e-5)  # a rounding decides there
        assert (handed is None) == (i == 0 or moved > threshold)
        kept = now if handed is None else kept


def test_full_everywhere_is_no_cache_bit_for_bit(family):
    sd = family("sd1")
    plain = generate(sd, None).latents
    for policy in (DeepCache(1, 2), At(tuple(range(9)), 1), Adaptive(0.0, 1), DeepCache(1, 0, 2), Adaptive(0.0, 11, 1)):
        result = generate(sd, policy)
        assert mx.array_equal(result.latents, plain) and result.full == result.evaluations, policy


def test_other_ways_to_say_the_same_make_the_same(family):
    sd = family("sd1")
    third = generate(sd, DeepCache(3, 1))
    assert mx.array_equal(generate(sd, At((0, 3, 6), 1)).latents, third.latents)
    once = generate(sd, At((0,), 1, 0))
    for policy in (DeepCache(99, 1), Adaptive(math.inf, 1), Adaptive(1e9, 1), At((0,), 1, 2)):
        result = generate(sd, policy)
        assert result.full == 1 and mx.array_equal(result.latents, once.latents), policy
    assert not mx.array_equal(generate(sd, DeepCache(3, 1, 1)).latents, third.latents)


@pytest.mark.parametrize("sampler", samplers.names())
def test_every_policy_goes_with_every_sampler(sampler, family):
    for policy in (NonUniform(2, forecast=1), At((0, 1, 4), 1, 2), Adaptive(0.2, 0, 2)):
        result = generate(family("sd1"), policy, steps=4, sampler=sampler)
        assert result.evaluations >= 4 and mx.isfinite(result.latents).all().item()
        if not isinstance(policy, Adaptive):
            assert result.full == len(policy.due(result.evaluations))


@slow
@given(threshold=st.floats(0.05, 1), guidance=st.sampled_from([1.0, 4.0]))
def test_adaptive_pictures_do_not_depend_on_their_batch(threshold, guidance, family):
    how = {"steps": 4, "guidance": guidance}
    together = generate(family("sd1"), Adaptive(threshold), count=3, batch=3, seed=5, **how)
    for i in range(3):
        alone = generate(family("sd1"), Adaptive(threshold), seed=5 + i, **how)
        assert mx.array_equal(alone.latents[0], together.latents[i])


@slow
@given(threshold=st.floats(0.02, 1), branch=BRANCH, degree=DEGREE)
def test_what_was_adaptive_can_be_listed(threshold, branch, degree, family):
    """The decision costs nothing and changes nothing: the same evaluations by list make the same latents."""
    sd, full = family("sd1"), []
    call = Reuse.__call__

    def noted(self, unet):
        before = self.full
        prediction = call(self, unet)
        full.append(self.full > before)
        return prediction

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reuse, "__call__", noted)
        adaptive = generate(sd, Adaptive(threshold, branch, degree))
    done = tuple(i for i, was in enumerate(full) if was)
    assert mx.array_equal(generate(sd, At(done, branch, degree)).latents, adaptive.latents)
