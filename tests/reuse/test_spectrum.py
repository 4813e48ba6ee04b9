"""Spectrum as a policy: its full evaluations are those of its authors' loop, its forecast that of its numbers."""

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import At, Spectrum
from mlx_sd.core.errors import InputError
from mlx_sd.reuse.deepcache import parse
from mlx_sd.reuse.feature_cache import FeatureCache
from mlx_sd.reuse.forecast import ChebyshevRidge, Polynomial
from tests.reuse.test_feature_cache import Network, generate
from tests.support.effort import SAMPLERS, slow_but

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")

POLICIES = st.builds(
    Spectrum,
    window=st.floats(1, 9),
    growth=st.floats(0, 3),
    first=st.integers(1, 9),
    last=st.floats(0, 1),
    degree=st.integers(0, 8),
    ridge=st.floats(1e-3, 10),
    blend=st.floats(0, 1),
    points=st.integers(2, 12),
    branch=st.integers(0, 11),
    forecast=st.integers(0, 2),
)


def loop_of_the_authors(steps: int, first: int, window: float, growth: float) -> list[int]:
    """The decision as it is published: a counter of cached steps in a row, and a window that grows."""
    full, count = [], 0
    for step in range(steps):
        actual = True
        if step >= first:
            actual = (count + 1) % int(window) == 0
            if actual:
                window += growth
        if actual:
            full.append(step)
        count = 0 if actual else count + 1
    return full


@given(st.integers(0, 100), st.integers(1, 9), st.floats(1, 9), st.floats(0, 3))
def test_the_full_evaluations_are_those_of_the_authors_loop(evaluations, first, window, growth):
    policy = Spectrum(window, growth, first)
    assert policy.full_evaluations(evaluations) == loop_of_the_authors(evaluations, first, window, growth)


def test_of_50_evaluations_13_are_full():
    assert Spectrum().full_evaluations(50) == [0, 1, 2, 3, 5, 7, 10, 14, 19, 24, 30, 37, 45]


@given(POLICIES, st.integers(0, 100))
def test_the_last_share_is_full_and_nothing_before_it_changes(policy, evaluations):
    full = policy.full_evaluations(evaluations)
    begin = evaluations - int(policy.last * evaluations + 1e-9)
    assert full == sorted(set(full)) and {*range(begin, evaluations)} <= {*full}
    plain = Spectrum(policy.window, policy.growth, policy.first).full_evaluations(evaluations)
    assert [i for i in full if i < begin] == [i for i in plain if i < begin]


@given(POLICIES)
def test_it_prints_as_what_deepcache_takes(policy):
    assert parse(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("spectrum:2", Spectrum()),
        ("spectrum:3,1:1", Spectrum(3.0, 1.0, branch=1)),
        ("spectrum:2,,6,0.1", Spectrum(first=6, last=0.1)),
        ("spectrum:2,0.75,4,0,3,1,0.4,6+forecast1", Spectrum(degree=3, ridge=1.0, blend=0.4, points=6)),
        ("spectrum:2+forecast0", Spectrum(forecast=0)),
        ("spectrum:2+forecast2", Spectrum(forecast=2)),
    ],
)
def test_text_is_read_as_the_numbers_it_names(text, policy):
    assert parse(text) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spectrum:0.5", "Spectrum's window must be from 1"),
        ("spectrum:nan", "Spectrum's window must be from 1"),
        ("spectrum:2,-1", "Spectrum's growth must be from 0"),
        ("spectrum:2,1,0", "Spectrum's first evaluations must be at least 1"),
        ("spectrum:2,1,4,1.5", "Spectrum's last share must be from 0 to 1"),
        ("spectrum:2,1,4,0,99", "Spectrum's degree must be from 0 to 20"),
        ("spectrum:2,1,4,0,4,0", "Spectrum's ridge must be above 0"),
        ("spectrum:2,1,4,0,4,1,2", "Spectrum's blend must be from 0 to 1"),
        ("spectrum:2,1,4,0,4,1,1,1", "Spectrum's points must be at least 2"),
        ("spectrum:1,2,3,0,5,6,1,8,9", "takes N or N:BRANCH"),
        ("spectrm:2", r"did you mean spectrum:2\?"),
        ("spectrum:2+forecast3", "degree 0, 1 or 2, not 3"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)


@given(POLICIES, st.integers(1, 40))
def test_cached_evaluations_are_handed_the_forecast_of_the_latest_full_ones(policy, evaluations):
    levels = [i**1.2 for i in range(evaluations)]
    network = Network(lambda level: mx.array([level, 1.0, level**2 / 100]))
    cache = network.run(policy, levels)
    full = policy.full_evaluations(evaluations)
    assert (cache.evaluations, cache.full) == (evaluations, len(full))
    fit = ChebyshevRidge(
        levels[0], levels[-1], policy.degree, policy.ridge, policy.blend, policy.points, Polynomial(policy.forecast)
    )
    for i, handed in enumerate(network.handed):
        assert (handed is None) == (i in full)
        if handed is not None:
            past = [levels[j] for j in full if j < i][-fit.reach :]
            weights = fit.weights(past, levels[i])
            expected = [sum(w * f(x) for w, x in zip(weights, past, strict=True)) for f in (float, lambda x: 1.0)]
            scale = max(1.0, sum(map(abs, weights))) * max(1.0, levels[i])
            assert abs(handed[0].item() - expected[0]) <= 1e-4 * scale
            assert abs(handed[1].item() - expected[1]) <= 1e-4 * scale


def test_after_a_restart_the_fit_begins_again():
    network = Network(lambda level: mx.full((2 if level < 8 else 1,), level))
    network.run(Spectrum(), [float(i) for i in range(12)], restarts={8})
    assert [deep.shape for deep in network.handed[8:] if deep is not None] == [(1,)] * 2


def test_where_all_evaluations_are_first_nothing_is_cached(family):
    plain = generate(family("sd1"), steps=5)
    result = generate(family("sd1"), steps=5, deepcache=Spectrum(first=99))
    assert mx.array_equal(result.latents, plain.latents) and result.full == result.evaluations


@pytest.mark.slow
def test_without_a_fit_it_is_the_list_with_the_polynomial(family):
    """A blend of 0 is the policy `at=` of the same evaluations, bit for bit."""
    listed = At(tuple(Spectrum().full_evaluations(9)), forecast=1)
    spectrum = generate(family("sd1"), steps=9, deepcache=Spectrum(blend=0.0, points=2))
    assert mx.array_equal(spectrum.latents, generate(family("sd1"), steps=9, deepcache=listed).latents)
    assert not mx.array_equal(spectrum.latents, generate(family("sd1"), steps=9, deepcache=Spectrum()).latents)


@pytest.mark.parametrize("sampler", slow_but(["heun"], SAMPLERS))
def test_it_goes_with_every_sampler(sampler, family):
    result = generate(family("sd1"), steps=7, sampler=sampler, deepcache=Spectrum(first=2))
    assert result.full == len(Spectrum(first=2).full_evaluations(result.evaluations))
    assert mx.isfinite(result.latents).all().item()


def test_it_keeps_no_more_features_than_it_reaches_back():
    cache = FeatureCache(policy := Spectrum(points=3, first=20), [float(i) for i in range(20)])
    for level in range(20):
        cache.evaluate(lambda deep, depth, level=level: (mx.zeros(()), mx.array(level)))
    assert policy.extrapolation([0.0, 1.0]).reach == 3 and len(cache._others) == 3
