"""The bound on a distribution that is known, with its true denoiser, is its entropy."""

import numpy as np
import pytest

from mlx_sd.discrete import bound, schedules
from mlx_sd.discrete.corruption import KINDS, Corruption


def entropy(p):
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


def exact(corruption, joint):
    """The denoiser that knows the distribution of pairs: each token's p(x0 | x_t), by enumeration."""
    size = len(joint)

    def predict(x, _, alpha):
        likelihood = np.exp(
            corruption.log_marginal(np.where(np.eye(corruption.states, dtype=bool), 0.0, -np.inf)[:size], alpha)
        )
        of_pairs = joint[None] * likelihood[:, x[:, 0]].T[:, :, None] * likelihood[:, x[:, 1]].T[:, None, :]
        of_pairs /= of_pairs.sum(axis=(1, 2), keepdims=True)
        p = np.stack([of_pairs.sum(axis=2), of_pairs.sum(axis=1)], axis=1)
        with np.errstate(divide="ignore"):
            return np.pad(np.log(p), [(0, 0), (0, 0), (0, corruption.states - size)], constant_values=-np.inf)

    return predict


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "schedule"), [(20, "linear"), (60, "cosine")])
def test_of_independent_tokens_it_is_their_entropy_for_any_number_of_steps(kind, steps, schedule):
    rng, corruption, p = np.random.default_rng(0), Corruption(kind, 3), np.array([0.6, 0.3, 0.1])
    x0 = rng.choice(3, size=(3000, 2), p=p)
    bits = bound.bits_per_token(
        exact(corruption, np.outer(p, p)), corruption, schedules.alphas(schedule, steps), x0, rng
    )
    empirical = -np.log2(p[x0]).mean()  # the entropy, with this sample's own fluctuation
    assert bits.mean() == pytest.approx(empirical, rel=0.02)
    assert empirical == pytest.approx(entropy(p), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_of_tokens_that_depend_on_each_other_it_comes_down_to_their_entropy(kind):
    rng, corruption = np.random.default_rng(1), Corruption(kind, 3)
    joint = np.array([[0.3, 0.02, 0.01], [0.02, 0.25, 0.05], [0.01, 0.04, 0.3]])
    pairs = rng.choice(9, size=20_000, p=joint.ravel())
    x0 = np.stack([pairs // 3, pairs % 3], axis=1)
    means = [
        bound.bits_per_token(exact(corruption, joint), corruption, schedules.alphas("linear", steps), x0, rng).mean()
        for steps in (2, 20, 200)
    ]
    assert means[0] > means[1] > means[2] > entropy(joint) / 2 * 0.995
    assert means[2] == pytest.approx(entropy(joint) / 2, rel=0.01)


def test_some_steps_stand_for_all():
    rng, corruption, p = np.random.default_rng(2), Corruption("absorbing", 3), np.array([0.6, 0.3, 0.1])
    x0 = rng.choice(3, size=(4000, 2), p=p)
    alphas, predict = schedules.alphas("linear", 40), exact(corruption, np.outer(p, p))
    every = bound.bits_per_token(predict, corruption, alphas, x0, rng).mean()
    some = bound.bits_per_token(predict, corruption, alphas, x0, rng, steps=range(1, 41, 3)).mean()
    assert some == pytest.approx(every, rel=0.1)


def test_a_worse_denoiser_costs_more():
    rng, corruption, p = np.random.default_rng(3), Corruption("absorbing", 3), np.array([0.6, 0.3, 0.1])
    x0, alphas = rng.choice(3, size=(1000, 2), p=p), schedules.alphas("linear", 10)
    good, uniform = (exact(corruption, np.outer(q, q)) for q in (p, np.full(3, 1 / 3)))
    bits = [bound.bits_per_token(predict, corruption, alphas, x0, rng).mean() for predict in (good, uniform)]
    assert bits[1] == pytest.approx(np.log2(3), rel=0.03)
    assert bits[0] < bits[1] - 0.2
