"""Weights of a step that replaces the image, or the noise, by a polynomial through its estimates.

With l = log(a / s), the probability flow is d(x / s) = exp(l) image dl, or d(x / a) = -exp(-l) noise dl (Lu et al.
2022, eq. 3.4 and 4.1). A level is a pair (a, s), as in schedule.py.
"""

from collections.abc import Sequence
from math import exp, log

import numpy as np
from numpy.typing import NDArray

Level = tuple[float, float]

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(48)


def drift(level: Level, end: Level) -> tuple[float, float]:
    """Weights of latent and denoised image for a step that is exact if that image were constant."""
    (a, s), (a1, s1) = level, end
    return s1 / s, a1 - a * s1 / s


def log_snr(level: Level) -> float:
    """Half the logarithm of the signal-to-noise ratio: lambda in the papers."""
    return log(level[0] / level[1])


def exponential(
    level: Level,
    end: Level,
    nodes: Sequence[Level],
    history: str = "denoised",
    kind: str = "heun",
    curvature: float = 1.0,
    sde: bool = False,
) -> tuple[float, tuple[float, ...]]:
    """Weights of the latent at `level`, and of the estimates at `nodes`, for a step to `end`.

    The polynomial is integrated exactly, but for what the published methods simplify: two estimates weigh their slope
    by half the step's own weight (kind "midpoint" or "bh2") or by half its length ("bh1"), and `curvature` scales the
    quadratic term. `sde` is the reverse diffusion instead of the flow: a step twice as long, without its noise.
    """
    if end[1] == 0:
        return 0.0, (end[0], *[0.0] * (len(nodes) - 1))
    length = log_snr(end) - log_snr(level)
    if history == "noise":
        rate, x, scale = -length, end[0] / level[0], end[1]
    elif sde:
        rate, x, scale = 2 * length, end[1] / level[1] * exp(-length), end[0]
    else:
        rate, x, scale = length, end[1] / level[1], end[0]
    moments = _moments(rate, len(nodes))
    if len(nodes) == 2 and kind != "heun":
        moments[1] = (rate if kind == "bh1" else moments[0]) / 2
    moments[2:3] *= curvature
    offsets = [log_snr(node) - log_snr(level) for node in nodes]
    return x, interpolated(offsets, moments * length ** np.arange(len(nodes)) * scale)


def interpolated(offsets: Sequence[float], moments: NDArray[np.float64]) -> tuple[float, ...]:
    """Weights of values at `offsets` that turn into moments[i] if the values are offset^i."""
    return tuple(map(float, np.linalg.solve(np.vander(offsets, increasing=True).T, moments)))


def _moments(rate: float, count: int) -> NDArray[np.float64]:
    # The integrals of rate exp(rate (u - 1)) u^i over [0, 1]: by Gauss, for their closed forms cancel in small steps.
    u = (_POINTS + 1) / 2
    return np.array([np.sum(_WEIGHTS / 2 * rate * np.exp(rate * (u - 1)) * u**i) for i in range(count)])
