"""FeatureCache: what each evaluation is handed, how features are carried on, and generations written by hand."""

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mlx_sd import Adaptive, At, DeepCache
from mlx_sd.core.errors import InputError
from mlx_sd.reuse.feature_cache import FeatureCache, extrapolate
from mlx_sd.reuse.forecast import Polynomial
from mlx_sd.sampling import loop, samplers
from mlx_sd.sampling.denoise import guide
from tests.reuse.test_cached_passes import BRANCHES, SHAPES
from tests.support import families
from tests.support.effort import SAMPLERS, slow_but

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")

BRANCH, DEGREE = st.integers(0, 11), st.integers(0, 2)
slow = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def generate(sd, **settings):
    defaults = {"steps": 7, "guidance": families.GUIDANCE, "seed": families.SEED, "output": "latent"}
    return sd.generate(families.PROMPT, families.NEGATIVE, **(defaults | settings))


# ------------------------------------------------------------------------------------------------ evaluations


class Network:
    """A network whose deep features are a function of the log-SNR, and which notes what it is handed."""

    def __init__(self, features, shallow=lambda level: mx.ones(1)):
        self.features, self.shallow, self.handed = features, shallow, []

    def run(self, policy, log_snr, **options):
        cache = FeatureCache(policy, log_snr, **options)
        for level in log_snr:

            def unet(deep, depth, level=level):
                assert depth == policy.branch + 1
                deep = deep(self.shallow(level)) if callable(deep) else deep
                self.handed.append(deep)
                return mx.zeros(()), self.features(level) if deep is None else deep

            cache.evaluate(unet)
        return cache


@given(interval=st.integers(1, 60), evaluations=st.integers(0, 120), branch=BRANCH)
def test_one_evaluation_in_n_is_full_and_the_first_is(interval, evaluations, branch):
    network = Network(lambda level: mx.array(level))
    cache = network.run(DeepCache(interval, branch), range(evaluations))
    assert (cache.evaluations, cache.full) == (evaluations, math.ceil(evaluations / interval))
    # Each is full, or is handed the features of the latest full one.
    for i, deep in enumerate(network.handed):
        assert (deep is None) if i % interval == 0 else (deep.item() == i - i % interval)


def test_without_a_policy_every_evaluation_is_full_and_nothing_is_kept():
    cache = FeatureCache(None, ())
    for _ in range(3):
        assert cache.evaluate(lambda deep, depth: ((deep, depth), mx.zeros(()))) == (None, 1)
    assert (cache.evaluations, cache.full) == (3, 3)


@given(st.sampled_from([DeepCache(4), DeepCache(4, 0, 2), Adaptive(1e9, 0, 1)]), st.sets(st.integers(0, 9)))
def test_forced_evaluations_are_full_beside_those_of_the_policy(policy, forced):
    network = Network(lambda level: mx.array([level]))
    network.run(policy, [float(i) for i in range(10)], forced=forced)
    assert [i for i, deep in enumerate(network.handed) if deep is None] == sorted(
        {*policy.full_evaluations(10), *forced}
    )


def test_after_a_restart_no_earlier_features_are_used():
    """At the restart features change their size: a line through both sizes could not be drawn."""
    network = Network(lambda level: mx.full((2 if level < 5 else 1,), level))
    network.run(DeepCache(3, 0, 2), [float(i) for i in range(9)], restarts={5})
    assert [deep.shape for deep in network.handed if deep is not None] == [(2,)] * 3 + [(1,)] * 2


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0.01, 2))
def test_an_adaptive_evaluation_is_full_when_the_shallow_features_have_changed(places, threshold):
    shallow = iter(places)
    network = Network(lambda level: mx.zeros(1), lambda level: mx.array([9.0, next(shallow)]))
    network.run(Adaptive(threshold), [0.0] * len(places))
    reference = np.array([9.0, places[0]])
    for i, (place, handed) in enumerate(zip(places, network.handed, strict=True)):
        now = np.array([9.0, place])
        change = np.linalg.norm(now - reference) / np.linalg.norm(reference)
        assume(abs(change - threshold) > 1e-5)  # a rounding decides there
        assert (handed is None) == (i == 0 or change > threshold)
        reference = now if handed is None else reference


# ------------------------------------------------------------------------------------------------ forecasts


@given(
    st.lists(st.floats(0.3, 1), min_size=3, max_size=3),
    st.integers(0, 2),
    st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    st.floats(-0.5, 2),
)
def test_a_forecast_of_degree_k_is_exact_for_polynomials_of_degree_k(gaps, degree, coefficients, place):
    """As far as it reaches: half of the distance between the last two; beyond, it stays at that value."""
    levels = (np.cumsum(gaps) - 2)[-1 - degree :]

    def features(level):
        return mx.array([sum(c * level**i for i, c in enumerate(coefficients[: degree + 1]))], dtype=mx.float32)

    gap = levels[-1] - levels[-2] if degree else 0
    past = [(level, features(level)) for level in levels]
    forecast = extrapolate(past, levels[-1] + place * gap, Polynomial(degree))
    assert abs(forecast.item() - features(levels[-1] + min(place, 0.5) * gap).item()) < 1e-4


@given(st.integers(0, 2), st.integers(1, 6), st.integers(1, 30))
def test_a_forecast_is_of_the_latest_full_evaluations(degree, interval, evaluations):
    """Of as many as there are, at most degree + 1: lines are met after two of them, whatever the levels."""
    levels, line = [i**1.5 for i in range(evaluations)], Network(lambda level: mx.array([level]))
    line.run(DeepCache(interval, forecast=degree), levels)
    for i, handed in enumerate(line.handed):
        last = i - i % interval
        if last == i:
            assert handed is None
            continue
        gap = levels[last] - levels[last - interval] if degree and last else 0
        assert math.isclose(handed.item(), min(levels[i], levels[last] + gap / 2), rel_tol=1e-4)


def test_a_forecast_keeps_float16():
    past = [(level, mx.array([level / 2 + 1], dtype=mx.float16)) for level in (0.0, 2.0)]
    forecast = extrapolate(past, 3.0, Polynomial(1))
    assert (forecast.dtype, forecast.item()) == (mx.float16, 2.5)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=20), DEGREE, st.integers(1, 3))
def test_levels_that_come_again_do_no_harm(levels, degree, interval):
    """Heun evaluates twice at one level, and churn goes back."""
    network = Network(lambda level: mx.array([7.0]))
    network.run(DeepCache(interval, forecast=degree), levels)
    assert all(abs(handed.item() - 7) < 1e-3 for handed in network.handed if handed is not None)


# ------------------------------------------------------------------------------------------------ generations


@pytest.mark.parametrize("sampler", slow_but(["heun", "unipc"], SAMPLERS))
@pytest.mark.parametrize("interval", slow_but([3], [2, 3, 5]))
def test_a_generation_counts_evaluations_not_steps(sampler, interval, family):
    calls = []
    result = generate(
        family("sd1"), steps=5, sampler=sampler, deepcache=DeepCache(interval), callback=lambda *a: calls.append(a[:2])
    )
    assert result.evaluations == len(calls) >= 5
    assert result.full == math.ceil(result.evaluations / interval)


@pytest.mark.parametrize("name", slow_but(["sd1"], SHAPES))
def test_nothing_survives_a_generation(name, family):
    first = generate(family(name), deepcache=DeepCache(3, 1))
    generate(family(name), steps=5, seed=77, deepcache=DeepCache(5, 2))
    again = generate(family(name), deepcache=DeepCache(3, 1))
    assert mx.array_equal(first.latents, again.latents)


@pytest.mark.parametrize("name", slow_but(["sd1"], SHAPES))
def test_interval_one_is_no_cache_at_all(name, family):
    plain = generate(family(name))
    for branch in (0, BRANCHES[name] - 1):
        every = generate(family(name), deepcache=DeepCache(1, branch))
        assert mx.array_equal(every.latents, plain.latents)
        assert every.full == every.evaluations
    assert not mx.array_equal(generate(family(name), deepcache=DeepCache(2)).latents, plain.latents)


def by_hand(sd, sampler: str | None, steps: int, full: Sequence[int], branch: int) -> mx.array:
    """Final latents of a loop that computes the whole UNet at the evaluations `full`."""
    noise = mx.array(families.noise())
    context = mx.concatenate([sd.encode_prompt(text)[0] for text in (families.NEGATIVE, families.PROMPT)])
    evaluation, deep = 0, None

    def predict(x: mx.array, t: float) -> mx.array:
        nonlocal evaluation, deep
        both, time = mx.concatenate([x, x]), mx.array(t)
        if evaluation in full:
            output, deep = sd.unet(both, time, context, depth=branch + 1)
        else:
            output, _ = sd.unet(both, time, context, deep=deep, depth=branch + 1)
        evaluation += 1
        return guide(output, families.GUIDANCE)

    stream = np.random.RandomState(families.SEED)

    def normal() -> mx.array:  # channel-first, as the pipeline draws
        draw = stream.standard_normal((noise.shape[3], *noise.shape[1:3])).astype(np.float32)
        return mx.array(draw.transpose(1, 2, 0)[None])

    table = samplers.table(sd.model.scheduler, *samplers.choose(sd.model.scheduler, sampler, None), steps)
    return loop.run(table, predict, noise, normal)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(interval=st.integers(2, 4), branch=st.integers(0, 11), steps=st.integers(2, 6))
def test_a_cached_generation_is_the_loop_written_by_hand(interval, branch, steps, family):
    settings_ = {"latents": mx.array(families.noise()), "steps": steps, "deepcache": DeepCache(interval, branch)}
    ours = generate(family("sd1"), **settings_)
    assert mx.array_equal(ours.latents, by_hand(family("sd1"), None, steps, range(0, 2 * steps, interval), branch))


@pytest.mark.parametrize("sampler", slow_but(["heun", "unipc"], SAMPLERS))
def test_under_every_sampler_it_is_the_loop_written_by_hand(sampler, family):
    settings_ = {
        "latents": mx.array(families.noise()),
        "steps": 6,
        "sampler": sampler,
        "deepcache": At((0, 1, 4, 7), 2),
    }
    ours = generate(family("sd1"), **settings_)
    assert mx.array_equal(ours.latents, by_hand(family("sd1"), sampler, 6, (0, 1, 4, 7), 2))


def test_a_branch_that_is_not_there_is_refused(family):
    with pytest.raises(InputError, match="no DeepCache branch 12 in this UNet; it has 0 to 11"):
        generate(family("sd1"), deepcache=DeepCache(2, 12))


@slow
@given(threshold=st.floats(0.05, 1), guidance=st.sampled_from([1.0, 4.0]))
@pytest.mark.slow
def test_adaptive_images_do_not_depend_on_their_batch(threshold, guidance, family):
    settings_ = {"steps": 4, "guidance": guidance, "deepcache": Adaptive(threshold)}
    together = generate(family("sd1"), count=3, batch=3, **settings_ | {"seed": 5})
    for i in range(3):
        alone = generate(family("sd1"), **settings_ | {"seed": 5 + i})
        assert mx.array_equal(alone.latents[0], together.latents[i])


@pytest.mark.slow
@slow
@given(threshold=st.floats(0.02, 1), branch=BRANCH, degree=DEGREE)
def test_an_adaptive_generation_is_that_of_its_list_of_full_evaluations(threshold, branch, degree, family):
    """The decision costs nothing and changes nothing: the same evaluations by list make the same latents."""
    sd, full = family("sd1"), []
    evaluate = FeatureCache.evaluate

    def noted(self, *arguments, **keywords):
        before = self.full
        prediction = evaluate(self, *arguments, **keywords)
        full.append(self.full > before)
        return prediction

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureCache, "evaluate", noted)
        adaptive = generate(sd, steps=5, deepcache=Adaptive(threshold, branch, degree))
    listed = tuple(i for i, is_full in enumerate(full) if is_full)
    assert mx.array_equal(generate(sd, steps=5, deepcache=At(listed, branch, degree)).latents, adaptive.latents)
