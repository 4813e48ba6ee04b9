"""The variational bound on the logarithm of a picture's probability, in bits for each token."""

from collections.abc import Callable, Sequence

import numpy as np

from .corruption import Corruption, Floats, Tokens, one_hot

# (tokens (B, N), the step from 1, its alpha) -> logarithms of probabilities of x0 (B, N, S)
Predict = Callable[[Tokens, int, float], Floats]


def bits_per_token(
    predict: Predict,
    corruption: Corruption,
    alphas: Floats,
    x0: Tokens,
    rng: np.random.Generator,
    steps: Sequence[int] | None = None,
) -> Floats:
    """Returns an estimate (B,) of the bound for tokens x0 (B, N): the mean code length of a token, in bits.

    It is sum_t KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)) over t from 1 to T, where t = 1 is -log p(x0 | x1), with
    x_t drawn once for each step. The prior's part is 0, since alphas end at 0. steps: some of 1, ..., T, drawn evenly,
    whose mean stands for all; None is all of them.
    """
    count = len(alphas) - 1
    times = range(1, count + 1) if steps is None else steps
    total = np.zeros(len(x0))
    for t in times:
        alpha, before = float(alphas[t]), float(alphas[t - 1])
        x = corruption.corrupt(x0, alpha, rng)
        true = corruption.log_posterior(one_hot(x0, corruption.states), x, alpha, before)
        predicted = corruption.log_posterior(predict(x, t, alpha), x, alpha, before)
        total += _divergence(true, predicted).sum(axis=-1)
    bits: Floats = total * count / len(times) / x0.shape[1] / np.log(2)
    return bits


def _divergence(true: Floats, predicted: Floats) -> Floats:
    """Returns the Kullback-Leibler divergences (...) of distributions (..., S), given by logarithms."""
    p = np.exp(true)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (true - predicted), 0.0)
    divergences: Floats = terms.sum(axis=-1)
    return divergences
