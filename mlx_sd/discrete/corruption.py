"""The two corruptions of tokens: to a mask (absorbing) or to any token (multinomial), in closed form, in logarithms.

A token x0 of K stays with probability alpha and is otherwise drawn from `noise`, which is the mask, number K, or
uniform over all K (Hoogeboom et al. 2021, arXiv 2102.05379; Austin et al. 2021, arXiv 2107.03006). States are the K
tokens and, in the absorbing kind, the mask behind them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.suggestions import unknown

Floats = NDArray[np.float64]
Tokens = NDArray[np.int64]

KINDS = ("absorbing", "multinomial")


@dataclass(frozen=True)
class Corruption:
    """How tokens are corrupted; tokens: how many different ones there are, the codebook's size."""

    kind: str
    tokens: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of corruption", self.kind, KINDS)
        if self.tokens < 2:
            raise InputError(f"there must be 2 tokens or more, not {self.tokens}")

    @property
    def states(self) -> int:
        """Returns how many states a token has."""
        return self.tokens + (self.kind == "absorbing")

    @property
    def mask(self) -> int | None:
        """Returns the number of the mask, None where there is none."""
        return self.tokens if self.kind == "absorbing" else None

    @property
    def log_noise(self) -> Floats:
        """Returns the logarithms (S,) of the distribution that changed tokens are drawn from."""
        if self.kind == "absorbing":
            return np.array([-np.inf] * self.tokens + [0.0])
        return np.full(self.tokens, -np.log(self.tokens))

    def over_states(self, log_x0: Floats) -> Floats:
        """Returns logarithms (..., S) of the same probabilities over all states, for those (..., K) of the tokens."""
        behind = [(0, 0)] * (log_x0.ndim - 1) + [(0, self.states - self.tokens)]
        return np.pad(log_x0, behind, constant_values=-np.inf)

    def draw_noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tokens:
        """Draws tokens that have all changed."""
        if self.mask is not None:
            return np.full(shape, self.mask, np.int64)
        return rng.integers(self.tokens, size=shape)

    def corrupt(self, x0: Tokens, alpha: float, rng: np.random.Generator) -> Tokens:
        """Draws x_t of q(x_t | x0), each token by itself, where a share `alpha` stays."""
        stays = rng.random(x0.shape) < alpha
        return np.where(stays, x0, self.draw_noise(x0.shape, rng))

    def log_marginal(self, log_x0: Floats, alpha: float) -> Floats:
        """Returns log q(x_t) (..., S), alpha p(x0) + (1 - alpha) noise, for logarithms of p(x0) (..., S)."""
        return np.logaddexp(_log(alpha) + log_x0, _log(1 - alpha) + self.log_noise)

    def log_step(self, x: Tokens, ratio: float) -> Floats:
        """Returns log q(x_t = x | x_s) (..., S) over all states x_s; ratio: alpha_t / alpha_s, what stays between."""
        stays = _log(ratio) + one_hot(x, self.states)
        return np.logaddexp(stays, (_log(1 - ratio) + self.log_noise[x])[..., None])

    def log_posterior(self, log_x0: Floats, x: Tokens, alpha: float, before: float) -> Floats:
        """Returns log p(x_s) (..., S), s < t, for a token x_t = x and logarithms of probabilities of x0 (..., S).

        This is sum_x0 p(x0) q(x_s | x_t, x0), with q(x_s | x_t, x0) = q(x_t | x_s) q(x_s | x0) / q(x_t | x0).
        alpha: of t; before: alpha of s. The mask has probability 0 among `log_x0`.
        """
        if self.mask is not None:
            masked = np.logaddexp(
                _log(before - alpha) - _log(1 - alpha) + log_x0,
                (_log(1 - before) - _log(1 - alpha)) + one_hot(np.full(x.shape, self.mask), self.states),
            )
            return np.where((x == self.mask)[..., None], masked, one_hot(x, self.states))
        # q(x_t | x0) as a function of x0; alpha has shares that are 0, where all x0 are alike.
        log_given_x0 = np.logaddexp(
            _log(alpha) + one_hot(x, self.states), (_log(1 - alpha) + self.log_noise[x])[..., None]
        )
        weighed = log_x0 - log_given_x0
        total = _log_sum(weighed)[..., None]
        from_x0 = np.logaddexp(_log(before) + weighed, _log(1 - before) + self.log_noise + total)
        return self.log_step(x, alpha / before) + from_x0


def one_hot(x: Tokens, states: int) -> Floats:
    """Returns logarithms (..., S) of the distribution that is certain: 0 at x, and -inf elsewhere."""
    return np.where(np.arange(states) == x[..., None], 0.0, -np.inf)


def draw(log_probabilities: Floats, rng: np.random.Generator) -> Tokens:
    """Draws a token of each distribution (..., S), by Gumbel's trick: the largest of log p + noise."""
    uniform = rng.random(log_probabilities.shape)
    with np.errstate(divide="ignore"):
        gumbel = -np.log(-np.log(uniform))
    tokens: Tokens = np.argmax(log_probabilities + gumbel, axis=-1)
    return tokens


def _log(probability: float) -> float:
    """Returns the logarithm of a probability; rounding may have put it a little below 0."""
    return float(np.log(probability)) if probability > 0 else -np.inf


def _log_sum(values: Floats) -> Floats:
    largest = values.max(axis=-1)
    total: Floats = largest + np.log(np.exp(values - largest[..., None]).sum(axis=-1))
    return total
