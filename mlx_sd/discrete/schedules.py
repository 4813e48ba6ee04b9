"""Schedules of a discrete diffusion: the share of tokens that are still as they were, after each of T steps.

alphas[t] is the probability that a token has not changed by step t: alphas[0] is 1 and alphas[T] is 0, and
alphas[t - 1] - alphas[t] is the probability that it changes at step t (Chen et al. 2023, arXiv 2312.09193).
"""

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError

Floats = NDArray[np.float64]

NAMES = ("linear", "cosine", "beta:A,B")
BETA = "beta:100,4"  # that of the authors of DNDM for text without a condition: late in the corruption
USUAL = (*NAMES[:2], BETA)  # to choose from
_BETA = re.compile(r"beta:(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)")
_LARGEST = 1000.0  # of A and B
_NODES = 16  # of the quadrature in each step
MOST_STEPS = 100_000


def alphas(name: str, steps: int) -> Floats:
    """Returns the probabilities (T + 1,) that a token has not changed by each step, for T steps.

    name: "linear", 1 - t/T; "cosine", cos(pi t / 2T)^2; "beta:A,B", whose times of change have that Beta distribution.
    InputError for another name, and for steps that are not from 1 to 100,000.
    """
    check_steps(steps)
    times = np.arange(steps + 1) / steps
    if name == "linear":
        return 1 - times
    if name == "cosine":
        values = np.cos(np.pi / 2 * times) ** 2
        values[-1] = 0.0
        return values
    if match := _BETA.fullmatch(name):
        a, b = float(match[1]), float(match[2])
        if not (0 < a <= _LARGEST and 0 < b <= _LARGEST):
            raise InputError(f"the schedule {name}: A and B must be above 0, to {_LARGEST:.0f}")
        return _beta(a, b, steps)
    raise InputError(f"there is no schedule {name!r} of tokens; there are {', '.join(NAMES)}")


def is_name(text: str) -> bool:
    """Returns whether a text is the name of a schedule of tokens, whatever numbers it has."""
    return text in NAMES[:2] or _BETA.fullmatch(text) is not None


def check_steps(steps: int) -> None:
    """Raises InputError for a number of steps that there cannot be."""
    if not 1 <= steps <= MOST_STEPS:
        raise InputError(f"steps must be from 1 to {MOST_STEPS}, not {steps}")


def table(values: Sequence[float]) -> Floats:
    """Returns a table of alphas as an array; InputError where it is none: it falls from 1 to 0."""
    array = np.array(values, np.float64)
    if array.ndim != 1 or len(array) < 2 or array[0] != 1 or array[-1] != 0 or (np.diff(array) > 0).any():
        raise InputError("a table of alphas falls from 1 to 0, in two numbers or more")
    return array


def change_probabilities(alphas: Floats) -> Floats:
    """Returns the probability (T,) that a token changes at step 1, ..., T; they add up to 1."""
    return alphas[:-1] - alphas[1:]


def mean_calls(alphas: Floats, tokens: int) -> float:
    """Returns the mean number of steps at which one of so many tokens changes: sum_t 1 - (1 - p_t)^N."""
    return float((1 - (1 - change_probabilities(alphas)) ** tokens).sum())


def _beta(a: float, b: float, steps: int) -> Floats:
    """Returns 1 - the distribution function of Beta(a, b) at t/T, from integrals over each step.

    The substitution x = sin(u)^2 leaves no infinite density at the ends: x^(a-1) (1-x)^(b-1) dx becomes
    2 sin(u)^(2a-1) cos(u)^(2b-1) du.
    """
    edges = np.arcsin(np.sqrt(np.arange(steps + 1) / steps))
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    half = np.diff(edges)[:, None] / 2
    u = edges[:-1, None] + half * (nodes + 1)
    constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + math.log(2)
    density = np.exp(constant + (2 * a - 1) * np.log(np.sin(u)) + (2 * b - 1) * np.log(np.cos(u)))
    masses = (density * weights * half).sum(axis=1)
    above = np.concatenate([np.cumsum(masses[::-1])[::-1], [0.0]])
    values: Floats = above / above[0]
    return values
