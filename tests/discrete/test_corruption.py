"""Marginals and posteriors in closed form are those of the chain, step by step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import InputError
from mlx_sd.discrete.corruption import KINDS, Corruption, draw, one_hot

unit = st.floats(0.01, 0.99)


def matrix(corruption, stays):
    """The chain's matrix (from, to) of a step at which a token stays with a probability, else becomes noise."""
    matrix = stays * np.eye(corruption.states) + (1 - stays) * np.exp(corruption.log_noise)
    if corruption.mask is not None:
        matrix[corruption.mask] = np.eye(corruption.states)[corruption.mask]
    return matrix


def chain(corruption, ratios):
    """The matrix of several steps."""
    product = np.eye(corruption.states)
    for ratio in ratios:
        product = product @ matrix(corruption, ratio)
    return product


@pytest.mark.parametrize("kind", KINDS)
@given(tokens=st.integers(2, 5), ratios=st.lists(unit, min_size=1, max_size=6))
def test_marginals_are_those_of_the_chain(kind, tokens, ratios):
    corruption = Corruption(kind, tokens)
    x0 = np.arange(tokens)
    closed = np.exp(corruption.log_marginal(one_hot(x0, corruption.states), float(np.prod(ratios))))
    assert np.abs(closed - chain(corruption, ratios)[:tokens]).max() <= 1e-12


@pytest.mark.parametrize("kind", KINDS)
@given(tokens=st.integers(2, 5), early=unit, late=unit, data=st.data())
def test_the_posterior_is_bayes_by_enumeration(kind, tokens, early, late, data):
    """q(x_s | x_t, x0) = q(x_t | x_s) q(x_s | x0) / q(x_t | x0), and of a distribution of x0 its mean."""
    corruption = Corruption(kind, tokens)
    to_s, step = matrix(corruption, early), matrix(corruption, late)
    weights = np.array(data.draw(st.lists(unit, min_size=tokens, max_size=tokens)))
    p_x0 = weights / weights.sum()
    log_x0 = np.pad(np.log(p_x0), (0, corruption.states - tokens), constant_values=-np.inf)
    for x in range(corruption.states):
        to_t = to_s @ step
        expected = np.zeros(corruption.states)
        for k in range(tokens):
            if to_t[k, x] > 0:
                expected += p_x0[k] * to_s[k] * step[:, x] / to_t[k, x]
        if corruption.mask is not None and x < tokens:
            expected = np.eye(corruption.states)[x]  # x0 is x itself, whatever was predicted
        given_x = corruption.log_posterior(log_x0[None], np.array([x]), early * late, early)[0]
        assert np.abs(np.exp(given_x) - expected).max() <= 1e-12
        assert np.exp(given_x).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_step_draws_what_was_predicted(kind):
    corruption = Corruption(kind, 3)
    log_x0 = np.pad(np.log([0.2, 0.3, 0.5]), (0, corruption.states - 3), constant_values=-np.inf)
    x = corruption.draw_noise((1,), np.random.default_rng(0))
    posterior = np.exp(corruption.log_posterior(log_x0[None], x, 0.0, 1.0)[0])
    assert posterior[:3] == pytest.approx([0.2, 0.3, 0.5], abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.9, 0.4, 0.0])
def test_corrupted_tokens_have_the_marginal(kind, alpha):
    corruption, count = Corruption(kind, 4), 100_000
    seen = np.bincount(
        corruption.corrupt(np.full(count, 2), alpha, np.random.default_rng(3)), minlength=corruption.states
    )
    expected = np.exp(corruption.log_marginal(one_hot(np.array(2), corruption.states), alpha)) * count
    usual = expected > 0
    assert not seen[~usual].any()
    statistic = ((seen - expected)[usual] ** 2 / expected[usual]).sum()
    assert statistic < 20  # chi-square of at most 4 degrees: 0.05%


def test_draws_have_their_probabilities():
    probabilities = np.array([0.1, 0.0, 0.6, 0.3])
    with np.errstate(divide="ignore"):
        logs = np.broadcast_to(np.log(probabilities), (100_000, 4))
    seen = np.bincount(draw(logs, np.random.default_rng(4)), minlength=4) / 100_000
    assert seen[1] == 0
    assert np.abs(seen - probabilities).max() < 0.007


def test_other_kinds_and_a_single_token_are_refused():
    with pytest.raises(InputError, match="kind of corruption"):
        Corruption("absorb", 4)
    with pytest.raises(InputError, match="2 tokens or more"):
        Corruption("absorbing", 1)
