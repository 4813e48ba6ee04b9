"""Forecasts as weights of kept features: what they reproduce, and what they do to constants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.reuse.forecast import ChebyshevRidge, Polynomial

RANGE = (-4.0, 5.0)  # of log-SNRs
LEVELS = st.lists(st.integers(-16, 20), min_size=2, max_size=10, unique=True).map(lambda s: sorted(i / 4 for i in s))
TINY = 1e-10  # a ridge that hardly draws


def fit(degree=4, ridge=0.1, points=10, blend=1.0, forecast=0):
    return ChebyshevRidge(*RANGE, degree, ridge, blend, points, Polynomial(forecast))


@given(LEVELS, st.integers(0, 2), st.floats(-4, 5))
def test_a_polynomial_s_weights_sum_to_1_and_those_before_its_reach_are_0(levels, degree, level):
    weights = Polynomial(degree).weights(levels, level)
    assert len(weights) == len(levels) and abs(sum(weights) - 1) < 1e-9
    assert not any(weights[: -1 - degree])


@given(st.lists(st.integers(-4, 5).map(float), min_size=2, max_size=5, unique=True).map(sorted))
def test_without_a_ridge_the_fit_interpolates(levels):
    """Through as many levels as it has coefficients, it is exact at each of them.

    Levels are 1 apart at least: with closer ones even a tiny ridge is large beside the Gram matrix's least eigenvalue.
    """
    for i, place in enumerate(levels):
        weights = fit(len(levels) - 1, TINY).weights(levels, place)
        assert np.abs(np.array(weights) - np.eye(len(levels))[i]).max() < 1e-3, (levels, place)


@given(LEVELS, st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(-4, 5))
def test_without_a_ridge_the_fit_reproduces_polynomials_of_its_degree(levels, coefficients, level):
    degree = min(2, len(levels) - 1)

    def feature(x):
        return sum(c * (x / 4) ** i for i, c in enumerate(coefficients[: degree + 1]))

    if levels[-1] - levels[0] < 1:
        return
    weights = fit(degree, TINY).weights(levels, level)
    carried = sum(w * feature(x) for w, x in zip(weights, levels, strict=True))
    assert abs(carried - feature(level)) < 1e-2


@given(LEVELS, st.floats(-4, 5), st.floats(0.01, 10))
def test_the_fit_is_ridge_regression_in_chebyshev_s_polynomials(levels, level, ridge):
    """By the normal equations of each feature, with T_j(tau) = cos(j arccos tau)."""
    tau = [2 * (x - RANGE[0]) / (RANGE[1] - RANGE[0]) - 1 for x in (*levels, level)]
    rows = np.cos(np.outer(np.arccos(np.clip(tau, -1, 1)), np.arange(5)))
    design, row = rows[:-1], rows[-1]
    features = np.random.RandomState(len(levels)).standard_normal((len(levels), 3))
    coefficients = np.linalg.solve(design.T @ design + ridge * np.eye(5), design.T @ features)
    weights = np.array(fit(ridge=ridge).weights(levels, level))
    assert np.allclose(weights @ features, row @ coefficients, atol=1e-8)


@given(LEVELS, st.floats(-4, 5))
def test_a_ridge_draws_constants_to_0_and_none_does_not(levels, level):
    """What the ridge costs: at the levels themselves, the weights' sums are below 1 on average, by at most 1."""
    sums = [sum(fit(ridge=0.1).weights(levels, place)) for place in levels]
    assert 0 < np.mean(sums) < 1
    closer = [sum(fit(ridge=0.001).weights(levels, place)) for place in levels]
    assert abs(np.mean(closer) - 1) < abs(np.mean(sums) - 1)
    constant = sum(fit(0, TINY).weights(levels, level))
    assert abs(constant - 1) < 1e-6


@given(LEVELS, st.floats(-4, 5), st.floats(0, 1), st.integers(0, 2))
def test_a_blend_mixes_the_fit_with_the_polynomial(levels, level, blend, degree):
    fitted, direct = fit().weights(levels, level), Polynomial(degree).weights(levels, level)
    mixed = fit(blend=blend, forecast=degree).weights(levels, level)
    assert np.allclose(mixed, blend * np.array(fitted) + (1 - blend) * np.array(direct))


@given(LEVELS, st.floats(-4, 5), st.integers(2, 5))
def test_a_fit_looks_no_further_back_than_it_reaches(levels, level, points):
    fitted = fit(points=points, blend=0.5, forecast=1)
    assert fitted.reach == points
    weights, latest = fitted.weights(levels, level), fitted.weights(levels[-points:], level)
    assert np.allclose(weights[-points:], latest) and not any(weights[:-points])


@pytest.mark.parametrize("forecast", [Polynomial(2), ChebyshevRidge(0.0, 0.0), fit()], ids=str)
def test_a_single_level_is_held(forecast):
    assert forecast.weights([1.5], 3.0) == [1.0]


def test_a_generation_at_one_level_has_a_fit():
    weights = ChebyshevRidge(1.0, 1.0).weights([1.0, 1.0], 1.0)
    assert np.isfinite(weights).all()
