"""Weights of a step that integrates a polynomial through earlier estimates, of the image or of the noise.

With lambda = log(signal / noise) the probability flow is d(x / noise) = exp(lambda) image dlambda, or equally
d(x / signal) = -exp(-lambda) eps dlambda, eps being the noise in x (Lu et al. 2022, eq. 3.4 and 4.1).
"""

from collections.abc import Sequence
from functools import cache
from math import exp

import numpy as np
from numpy.typing import NDArray

from .steps import Level
from .table import Mix


def drift(start: Level, end: Level) -> tuple[float, float]:
    """Returns the weights of latents and denoised image in a step that is exact if that image is constant."""
    return end.noise / start.noise, end.signal - start.signal * end.noise / start.noise


def exponential(
    start: Level,
    end: Level,
    nodes: Sequence[Level],
    history: str = "denoised",
    kind: str = "heun",
    curvature: float = 1.0,
    sde: bool = False,
) -> Mix:
    """Returns the weights of the latents at `start` and of the estimates at `nodes` in a step to `end`.

    The polynomial is integrated exactly, except where the published methods simplify: with two nodes the slope is
    weighted by half of the step's own weight (kind "midpoint" or "bh2") or by half of its length ("bh1"), and
    `curvature` scales the quadratic term. `sde` integrates the reverse diffusion instead of the flow: its drift counts
    twice; its noise is left to the caller.
    """
    if end.noise == 0:
        return Mix(0.0, (end.signal, *[0.0] * (len(nodes) - 1)))
    length = end.log_snr - start.log_snr
    if history == "noise":
        rate, base, scale = -length, end.signal / start.signal, end.noise
    elif sde:
        rate, base, scale = 2 * length, end.noise / start.noise * exp(-length), end.signal
    else:
        rate, base, scale = length, end.noise / start.noise, end.signal
    moments = _moments(rate, len(nodes))
    if len(nodes) == 2 and kind != "heun":
        moments[1] = (rate if kind == "bh1" else moments[0]) / 2
    moments[2:3] *= curvature
    offsets = [node.log_snr - start.log_snr for node in nodes]
    return Mix(base, interpolated(offsets, moments * length ** np.arange(len(nodes)) * scale))


def interpolated(offsets: Sequence[float], moments: NDArray[np.float64]) -> tuple[float, ...]:
    """Returns the weights of values at `offsets` that give moments[i] when the values are offset^i."""
    return tuple(map(float, np.linalg.solve(np.vander(offsets, increasing=True).T, moments)))


def _moments(rate: float, count: int) -> NDArray[np.float64]:
    """Returns the integrals of rate exp(rate (u - 1)) u^i over [0, 1], for i below `count`."""
    # By Gauss-Legendre: the closed forms lose their digits to cancellation when steps are small.
    points, weights = _gauss_legendre()
    u = (points + 1) / 2
    return np.array([np.sum(weights / 2 * rate * np.exp(rate * (u - 1)) * u**i) for i in range(count)])


@cache
def _gauss_legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(48)
