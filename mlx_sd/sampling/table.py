"""What a sampler is made of: rows of numbers, and what a user may tell a solver."""

from dataclasses import dataclass
from math import log
from typing import NamedTuple


class Row(NamedTuple):
    """One evaluation of the network, and the mix that follows it."""

    t: float  # the timestep the network is told
    a: float  # the latent it is given is a * image + s * noise
    s: float
    x: float  # weight of the latent the step began with
    m: tuple[float, ...]  # weights of the history, newest first
    noise: float = 0.0
    ends: bool = True  # whether the result is the base of the next step
    again: tuple[float, tuple[float, ...]] | None = None  # weights that make the base anew, before the mix
    cut: float = 0.0  # weight of what clipping took away from the newest estimate


class Clip(NamedTuple):
    """How estimates of the image are kept to its range: to [-limit, limit], or by dynamic thresholding.

    The latter (Saharia et al. 2022, sec. 2.3) takes the `quantile` of a picture's absolute values, from 1 to `limit`,
    for the limit, and divides by it.
    """

    limit: float
    quantile: float | None = None


class Table(NamedTuple):
    """Everything a run needs to know."""

    rows: tuple[Row, ...]
    prediction: str  # what the network predicts
    history: str = "denoised"  # what `m` weighs: "denoised", "noise" or "prediction"
    start: float = 1.0  # the first latent is start * unit noise
    image: float | None = None  # + image * the image it starts from; None where it starts from noise
    churn: float = 0.0  # + churn * fresh noise
    deviation: float = 1.0  # of the images; levels, but for `end`, are of images in units of it
    end: tuple[float, float] = (1.0, 0.0)  # a and s of the final latents
    clip: Clip | None = None  # of the estimates, where the checkpoint was trained on pixels

    @property
    def levels(self) -> list[tuple[float, float]]:
        """(a, s) of the latents after each row: a times the image as the VAE has it, and s times noise."""
        return [*((row.a / self.deviation, row.s) for row in self.rows[1:]), self.end]

    @property
    def log_snr(self) -> list[float]:
        """2 log(a / s) of each evaluation; where there is no signal, or no noise, of 1e-4 of it."""
        return [2 * log(max(row.a, 1e-4) / max(row.s, 1e-4)) for row in self.rows]


@dataclass(frozen=True)
class Options:
    """What a solver may be told; None is its own default. `samplers` knows which one takes what, and in what range."""

    eta: float | None = None  # fresh noise: 0 none, 1 as much as the diffusion process itself adds
    gamma: float | None = None  # TCD: how far below its end a step goes before noise brings it back
    order: int | None = None
    kind: str | None = None  # how the second order is reached: "midpoint" or "heun", UniPC "bh1" or "bh2"
    corrector: bool | None = None  # UniC: each evaluation also corrects the step that led to it
    rho: float | None = None  # how unevenly the "karras" schedule is spaced
    s_churn: float | None = None  # EDM: noise added over all steps together, between levels s_tmin and s_tmax,
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None  # and the deviation of that noise
