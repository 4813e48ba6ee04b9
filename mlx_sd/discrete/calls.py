"""When a sampler of tokens calls its network, and how many or which tokens each call decides: known beforehand.

In the chain (Austin et al. 2021) the network is called at each of T steps. DNDM (Chen et al. 2023, arXiv 2312.09193,
algorithm 1) draws the step at which each token changes beforehand, and calls the network at these steps alone. With
many steps and tokens whose times lie close together, that is a small part of T; with few steps it is all of them.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.suggestions import unknown
from . import schedules
from .schedules import Floats

Times = NDArray[np.float64]
ParallelShare = Callable[
    [float], float
]  # share of the calls, from 0 to 1 -> share of the tokens that is decided by then

CHAIN, DNDM, DNDM_K, DNDM_C = "d3pm", "dndm", "dndm_k", "dndm_c"
MASK_PREDICT, MASKGIT = "mask_predict", "maskgit"
NAMES = (CHAIN, DNDM, DNDM_K, DNDM_C, MASK_PREDICT, MASKGIT)
MASKING = (MASK_PREDICT, MASKGIT)  # are of models that know a mask, and have schedules of their own
TIMED = (DNDM, DNDM_K, DNDM_C)  # draw the time at which each token changes

_FINE = 10_000  # steps of the table that stands for a continuous schedule of Beta


class Call(NamedTuple):
    """One call of the network."""

    time: float  # which the network is told: t / T, from 1 down
    alpha: float  # share of the tokens that have not changed at this time
    before: float  # the same after the call, nearer to the picture
    decided: int  # how many tokens are decided after the call
    changing: NDArray[np.bool_]  # (N,) which tokens change, where their times were drawn


def read_name(text: str) -> str | None:
    """Returns the name of a sampler of tokens that a text means, in any case and with dashes; None for none."""
    name = text.strip().lower().replace("-", "_").replace(" ", "_")
    return name if name in NAMES else None


def calls_of(name: str, schedule: str, steps: int, tokens: int, rng: np.random.Generator) -> list[Call]:
    """Returns all calls of the network for one picture of so many tokens, in order.

    name: one of NAMES. schedule: as `schedules.alphas` takes it. steps: T of the chain and of DNDM; the number of calls
    of mask-predict and MaskGIT; without meaning for DNDM-C, whose time is continuous. rng: draws the times of change.
    """
    if name not in NAMES:
        raise unknown("sampler of tokens", name, NAMES)
    if tokens < 1:
        raise InputError(f"a picture has 1 token or more, not {tokens}")
    schedules.check_steps(steps)
    if name in MASKING:
        return _parallel(name, steps, tokens)
    alphas = schedules.alphas(schedule, steps)
    if name == CHAIN:
        return _chain(alphas, tokens)
    if name == DNDM_C:
        return _at_times(continuous_times(schedule, tokens, rng), _continuous(schedule))
    times = transition_times(alphas, tokens, rng)
    return _at_times(times / steps, lambda time: float(alphas[round(time * steps)]))


def transition_times(alphas: Floats, tokens: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws the step (N,), from 1 to T, at which each token changes: t with probability alphas[t - 1] - alphas[t]."""
    uniform = rng.random(tokens)  # the step t with alphas[t] <= u < alphas[t - 1]
    steps: NDArray[np.int64] = np.searchsorted(-alphas, -uniform, side="left")
    return np.clip(steps, 1, len(alphas) - 1)


def continuous_times(schedule: str, tokens: int, rng: np.random.Generator) -> Times:
    """Draws the time (N,), above 0, to 1, at which each token changes, for a schedule of infinitely many steps."""
    return times_of(schedule, rng.random(tokens))


def times_of(schedule: str, alphas: Times) -> Times:
    """Returns the time, above 0, to 1, at which a schedule of infinitely many steps has each of the alphas."""
    if schedule == "linear":
        return 1 - alphas
    if schedule == "cosine":
        return np.arccos(np.sqrt(alphas)) * 2 / np.pi
    fine = schedules.alphas(schedule, _FINE)
    return np.clip(np.interp(-alphas, -fine, np.arange(_FINE + 1) / _FINE), 1 / _FINE, 1.0)


def _continuous(schedule: str) -> Callable[[float], float]:
    """Returns the alpha of each time of a schedule of infinitely many steps."""
    if schedule == "linear":
        return lambda time: 1 - time
    if schedule == "cosine":
        return lambda time: math.cos(math.pi / 2 * time) ** 2
    times, fine = np.arange(_FINE + 1) / _FINE, schedules.alphas(schedule, _FINE)
    return lambda time: float(np.interp(time, times, fine))


def _chain(alphas: Floats, tokens: int) -> list[Call]:
    """Returns a call for each step; all tokens may change at each, as the posterior says."""
    last, every = len(alphas) - 1, np.ones(tokens, bool)
    return [
        Call(t / last, float(alphas[t]), float(alphas[t - 1]), round(tokens * float(alphas[t - 1])), every)
        for t in range(last, 0, -1)
    ]


def _at_times(times: Times, alpha_at: Callable[[float], float]) -> list[Call]:
    """Returns a call for each distinct time of change."""
    distinct = np.unique(times)[::-1]
    following = [*distinct[1:], 0.0]
    return [
        Call(float(time), alpha_at(float(time)), alpha_at(float(after)), int((times >= time).sum()), times == time)
        for time, after in zip(distinct, following, strict=True)
    ]


def _parallel(name: str, count: int, tokens: int) -> list[Call]:
    """Returns calls after which a share of the tokens is decided: evenly more (mask-predict), or by a cosine (MaskGIT).

    Every call decides one token at least, so there are no more calls than tokens.
    """
    count = min(count, tokens)
    share: ParallelShare = (lambda x: x) if name == MASK_PREDICT else (lambda x: 1 - math.cos(math.pi / 2 * x))
    decided = [0]
    for i in range(1, count + 1):
        least, most = decided[-1] + 1, tokens - (count - i)
        decided.append(min(max(math.floor(tokens * share(i / count) + 1e-9), least), most))
    every = np.ones(tokens, bool)
    return [
        Call(1 - before / tokens, before / tokens, after / tokens, after, every) for before, after in pairwise(decided)
    ]
