"""A sampler's table: one row for each evaluation of the network, and the options that solvers take."""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from .steps import Level

_LEAST = 1e-4  # of signal or noise, so that the logarithm of their ratio is finite


class Mix(NamedTuple):
    """Weights of a linear combination: base * latents at the step's start + sum of estimates[j] * history[j]."""

    base: float
    estimates: tuple[float, ...]  # the newest estimate first


class Row(NamedTuple):
    """One evaluation of the network, and the combination that gives the next latents."""

    timestep: float  # that the network is called with
    level: Level  # of the latents that the network is called on
    mix: Mix  # gives the next latents
    fresh_noise: float = 0.0  # weight of new unit noise in the next latents
    ends_step: bool = True  # whether the next latents are the base of the rows that follow
    correction: Mix | None = None  # UniC: replaces the base, before `mix` uses it
    clip_weight: float = 0.0  # weight of (estimate before clipping - estimate after it) in the next latents


class Clip(NamedTuple):
    """How estimates of the image are limited: to [-limit, limit], or by dynamic thresholding.

    The latter (Saharia et al. 2022, sec. 2.3) limits each picture to the `quantile` of its absolute values, itself
    clipped to [1, limit], and divides by that.
    """

    limit: float
    quantile: float | None = None


class Table(NamedTuple):
    """A whole run of a sampler as numbers, known before the first evaluation.

    The first latents are noise_scale * unit noise + image_scale * image + churn_scale * fresh unit noise.
    """

    rows: tuple[Row, ...]
    prediction_type: str  # of the network, as in `denoise`
    history: str = "denoised"  # what the weights are of: "denoised" images, "noise", or raw "prediction"s
    noise_scale: float = 1.0
    image_scale: float | None = None  # None for a run that starts from noise alone
    churn_scale: float = 0.0
    sigma_data: float = 1.0  # standard deviation of the images; rows' levels are of images divided by it
    end: Level = Level(1.0, 0.0)  # of the final latents
    clip: Clip | None = None  # of the estimates, for checkpoints trained on pixels

    @property
    def levels(self) -> list[Level]:
        """Returns the level of the latents after each row, for images as the VAE has them."""
        return [*(Level(row.level.signal / self.sigma_data, row.level.noise) for row in self.rows[1:]), self.end]

    @property
    def steps(self) -> list[int]:
        """Returns the number of the step that each evaluation is of, counted from 1; Heun's two are of one step.

        A row with a correction begins a step of its own, although the base stays until it is corrected.
        """
        begins = (before.ends_step or row.correction is not None for before, row in pairwise(self.rows))
        return list(accumulate(begins, initial=1)) if self.rows else []

    @property
    def log_snr(self) -> list[float]:
        """Returns lambda of each evaluation; signal and noise count as at least 1e-4, so that it is finite."""
        return [Level(max(row.level.signal, _LEAST), max(row.level.noise, _LEAST)).log_snr for row in self.rows]


@dataclass(frozen=True)
class Options:
    """Settings of a solver; None is the solver's default. `samplers.SAMPLERS` lists who takes which, and its range."""

    eta: float | None = None  # fresh noise: 0 none, 1 as much as the diffusion process itself adds
    gamma: float | None = None  # TCD: how far below its end a step goes before noise brings it back
    order: int | None = None  # of convergence, before what a solver loses at the start and the end
    kind: str | None = None  # how the second order is reached: "midpoint" or "heun", UniPC "bh1" or "bh2"
    corrector: bool | None = None  # UniC: each evaluation also corrects the step that led to it
    rho: float | None = None  # how unevenly the "karras" schedule is spaced
    s_churn: float | None = None  # EDM: noise added over all steps together, at sigmas from s_tmin to s_tmax
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None  # EDM: standard deviation of that noise
