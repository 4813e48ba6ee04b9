"""Noise levels, and the steps that lead from one to the next."""

from collections.abc import Iterable
from math import log, sqrt
from typing import NamedTuple


class Level(NamedTuple):
    """A noise level: latents there are x = signal * image + noise * unit Gaussian noise.

    signal is alpha_t and noise is sigma_t of the papers; signal^2 + noise^2 = 1, so that the network takes x as it is.
    `sigma` alone always means k-diffusion's, noise / signal.
    """

    signal: float
    noise: float

    @property
    def sigma(self) -> float:
        """Returns noise / signal, the sigma of k-diffusion and of Karras et al. (2022)."""
        return self.noise / self.signal

    @property
    def log_snr(self) -> float:
        """Returns lambda = log(alpha_t / sigma_t) of Lu et al. (2022): half the log of the signal-to-noise ratio."""
        return log(self.signal / self.noise)

    @classmethod
    def from_alpha_cumprod(cls, alpha_cumprod: float) -> "Level":
        """Returns the level at which signal^2 is `alpha_cumprod`, alpha-bar of Ho et al. (2020)."""
        return cls(sqrt(alpha_cumprod), sqrt(1 - alpha_cumprod))

    @classmethod
    def from_sigma(cls, sigma: float) -> "Level":
        """Returns the level of k-diffusion's `sigma` at which signal^2 + noise^2 = 1."""
        signal = 1 / sqrt(1 + sigma * sigma)
        return cls(signal, sigma * signal)


class Step(NamedTuple):
    """One step: the network is called with `timestep` on latents of level `start`; the step leads to level `end`."""

    timestep: float
    start: Level
    end: Level


class Steps(list[Step]):
    """The steps of a run: the last ones of a grid of `total` steps, or by default the whole grid."""

    def __init__(self, steps: Iterable[Step], total: int | None = None):
        super().__init__(steps)
        self.total = len(self) if total is None else total


class Grid(NamedTuple):
    """All steps of a schedule, and the factor that turns unit noise into the first latents."""

    steps: list[Step]
    noise_scale: float = 1.0
