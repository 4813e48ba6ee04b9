"""Noise tables and step spacings: at which timesteps the network is asked, and at which noise levels.

A level is a pair (a, s): the latent there is x = a * image + s * noise with a^2 + s^2 = 1, so that the network takes
x as it is. k = s / a is the sigma of the k-diffusion literature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .config import Fields
from .errors import InputError

SPACINGS = ("leading", "linspace", "trailing")
_ALIASES = {"sgm_uniform": "trailing"}
_RHO = 7.0  # Karras et al. 2022, eq. 5


def names() -> tuple[str, ...]:
    """The names that `--schedule` takes."""
    return (*SPACINGS, *_ALIASES, "karras")


class Step(NamedTuple):
    """One step: the network is told timestep `t` about a latent at level (a, s); the step ends at level (a1, s1)."""

    t: float
    a: float
    s: float
    a1: float
    s1: float


@dataclass(frozen=True)
class Scheduler:
    """What a checkpoint's scheduler_config.json says; None where it leaves the choice to the sampler's class."""

    class_name: str
    prediction: str  # "epsilon", "v_prediction" or "sample"
    timesteps: int  # of training
    beta_start: float
    beta_end: float
    beta_schedule: str
    trained_betas: tuple[float, ...] | None
    zero_snr: bool
    spacing: str | None
    offset: int
    ends_clean: bool | None  # set_alpha_to_one: DDIM and PLMS end at alpha 1 rather than at that of timestep 0
    final_zero: bool  # final_sigmas_type "zero" rather than "sigma_min"
    lower_order_final: bool
    euler_at_final: bool
    karras: bool
    problem: str | None  # why its own sampler cannot be honoured as the config has it

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "scheduler/scheduler_config.json") -> "Scheduler":
        """Reads a diffusers scheduler config.

        InputError names a field that no sampler could honour; one that only the config's own class reads becomes the
        `problem`, for the user may choose another sampler.
        """
        f = Fields(values, where)
        class_name = str(values.get("_class_name", "PNDMScheduler"))
        final = f.only("final_sigmas_type", "zero", "sigma_min")
        betas = f.take("trained_betas")
        return cls(
            class_name=class_name,
            prediction=f.only("prediction_type", "epsilon", "v_prediction", "sample"),
            timesteps=f.take("num_train_timesteps", 1000),
            beta_start=f.take("beta_start", 0.0001),
            beta_end=f.take("beta_end", 0.02),
            beta_schedule=f.only("beta_schedule", "linear", "scaled_linear", "squaredcos_cap_v2"),
            trained_betas=None if betas is None else tuple(betas),
            zero_snr=bool(f.take("rescale_betas_zero_snr", False)),
            spacing=f.only("timestep_spacing", None, *SPACINGS),
            offset=f.take("steps_offset", 0),
            ends_clean=f.take("set_alpha_to_one"),
            final_zero=final == "zero",
            lower_order_final=bool(f.take("lower_order_final", True)),
            euler_at_final=bool(f.take("euler_at_final", False)),
            karras=bool(f.take("use_karras_sigmas", False)),
            problem=_problem(f, class_name),
        )

    def alphas_cumprod(self, exact_zero: bool = False) -> NDArray[np.float64]:
        """alpha-bar per training timestep, from betas in float32 as in training.

        With zero terminal SNR the last is 0 if `exact_zero` (DDIM), else 2^-24 so that its sigma is finite.
        """
        n = self.timesteps
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, np.float32)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, n, dtype=np.float32)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, n, dtype=np.float32) ** 2
        else:  # Nichol and Dhariwal 2021, eq. 17
            bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999).astype(np.float32)
        alphas = _cumprod(1 - betas)
        if self.zero_snr:  # Lin et al. 2023, algorithm 1, by way of betas in float32 as in training
            root = np.sqrt(alphas)
            bar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
            alphas = _cumprod(1 - (1 - np.append(bar[:1], bar[1:] / bar[:-1])))
            alphas[-1] = 0.0 if exact_zero else 2.0**-24
        return alphas.astype(np.float64)


def _cumprod(alphas: NDArray[np.float32]) -> NDArray[np.float32]:
    # Summed up in float64 and rounded at each timestep, which is what PyTorch does.
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32)


def _problem(f: Fields, class_name: str) -> str | None:
    if class_name not in _FIXED:
        return f"{f.where}: {class_name} is not among the samplers here"
    try:
        for name, (default, *allowed) in _FIXED[class_name].items():
            value = f.take(name, default)
            if value not in (allowed or [default]):
                raise f.unsupported(name, value, allowed or [default])
        f.ignore(_WITHOUT_EFFECT)
        f.done()
    except InputError as error:
        return str(error)
    return None


# Fields of the classes we honour: what leaving them out means, and what is taken if that is not it.
_FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    "PNDMScheduler": {"skip_prk_steps": (False, True), "clip_sample": (False,)},
    "DDIMScheduler": {
        "clip_sample": (True, False),
        "thresholding": (False,),
        "skip_prk_steps": (False, True, False),
    },
    "EulerDiscreteScheduler": {
        "interpolation_type": ("linear",),
        "timestep_type": ("discrete",),
        "sigma_min": (None,),
        "sigma_max": (None,),
        "use_exponential_sigmas": (False,),
        "use_beta_sigmas": (False,),
        "clip_sample": (False,),
        "skip_prk_steps": (False, True, False),
        "sample_max_value": (1.0,),
    },
    "EulerAncestralDiscreteScheduler": {"clip_sample": (False,), "skip_prk_steps": (False, True, False)},
    "DPMSolverMultistepScheduler": {
        "algorithm_type": ("dpmsolver++",),
        "solver_order": (2,),
        "solver_type": ("midpoint",),
        "thresholding": (False,),
        "lambda_min_clipped": (-float("inf"), -float("inf"), None),
        "variance_type": (None,),
        "use_lu_lambdas": (False,),
        "use_exponential_sigmas": (False,),
        "use_beta_sigmas": (False,),
        "use_flow_sigmas": (False,),
        "use_dynamic_shifting": (False,),
        "clip_sample": (False,),
        "skip_prk_steps": (False, True, False),
    },
}
# Read only together with a field that is refused above.
_WITHOUT_EFFECT = (
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "flow_shift",
    "time_shift_type",
)


def by_index(scheduler: Scheduler, steps: int, schedule: str, ends_clean: bool = True) -> list[Step]:
    """Steps of DDIM and PLMS: integer timesteps, each ending T // steps further on whatever comes next.

    `ends_clean` is what the method does at the end where the checkpoint's set_alpha_to_one does not say.
    """
    schedule = _ALIASES.get(schedule, schedule)
    bar = scheduler.alphas_cumprod(exact_zero=True)
    total, stride = scheduler.timesteps, scheduler.timesteps // steps
    final = 1.0 if (ends_clean if scheduler.ends_clean is None else scheduler.ends_clean) else bar[0]
    found = []
    for t in _spaced(schedule, total, steps, scheduler.offset).round().astype(int):
        here, there = bar[t], bar[t - stride] if t >= stride else final
        found.append(Step(float(t), *_level(here), *_level(there)))
    return found


def by_sigma(scheduler: Scheduler, steps: int, schedule: str) -> list[Step]:
    """Steps of the Euler family: fractional timesteps, each ending where the next begins.

    The last ends at the checkpoint's final sigma, in the k-diffusion scale (image + sigma * noise).
    """
    schedule, sigmas = _ALIASES.get(schedule, schedule), _sigmas(scheduler)
    spacing = (scheduler.spacing or "linspace") if schedule == "karras" else schedule
    t = _spaced(spacing, scheduler.timesteps, steps, scheduler.offset)
    k = np.interp(t, np.arange(len(sigmas)), sigmas)
    if schedule == "karras":
        k = _karras(k[-1], k[0], steps)
        t = _times(k, sigmas)
    found = _chain(t, k, scheduler, sigmas)
    return [*found[:-1], found[-1]._replace(a1=1.0, s1=found[-1].s1 / found[-1].a1)]


def by_half_step(scheduler: Scheduler, steps: int, schedule: str) -> list[Step]:
    """Steps of the DPM-Solver family: as by_sigma, but integer timesteps, spaced as if one more step followed."""
    schedule, sigmas = _ALIASES.get(schedule, schedule), _sigmas(scheduler)
    if schedule == "karras":
        k = _karras(sigmas[0], sigmas[-1], steps)
        return _chain(_times(k, sigmas).round(), k, scheduler, sigmas)
    spaced = steps if schedule == "trailing" else steps + 1
    t = _spaced(schedule, scheduler.timesteps, spaced, scheduler.offset).round()[:steps]
    return _chain(t, np.interp(t, np.arange(len(sigmas)), sigmas), scheduler, sigmas)


def _spaced(spacing: str, total: int, steps: int, offset: int) -> NDArray[np.float64]:
    # Lin et al. 2023, table 2, descending; numbers as diffusers computes them.
    if spacing == "linspace":
        return np.linspace(0.0, total - 1.0, steps)[::-1]
    if spacing == "leading":
        return np.arange(steps, dtype=np.float64)[::-1] * (total // steps) + offset
    if spacing == "trailing":
        t: NDArray[np.float64] = np.arange(total, 0, -total / steps).round()[:steps] - 1
        return t
    raise InputError(f"unknown schedule {spacing!r}; there are {', '.join(names())}")


def _sigmas(scheduler: Scheduler) -> NDArray[np.float64]:
    bar = scheduler.alphas_cumprod()
    return np.sqrt((1 - bar) / bar)


def _karras(low: float, high: float, steps: int) -> NDArray[np.float64]:
    ramp = np.linspace(0, 1, steps)
    top, bottom = high ** (1 / _RHO), low ** (1 / _RHO)
    return np.asarray((top + ramp * (bottom - top)) ** _RHO, np.float64)


def _times(k: NDArray[np.float64], sigmas: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.interp(np.log(k), np.log(sigmas), np.arange(len(sigmas)))


def _level(bar: float) -> tuple[float, float]:
    return float(np.sqrt(bar)), float(np.sqrt(1 - bar))


def _chain(
    t: NDArray[np.float64], k: NDArray[np.float64], scheduler: Scheduler, sigmas: NDArray[np.float64]
) -> list[Step]:
    k = np.append(k, 0.0 if scheduler.final_zero else sigmas[0])
    a = 1 / np.sqrt(1 + k * k)
    levels = [(float(a[i]), float(k[i] * a[i])) for i in range(len(k))]
    return [Step(float(t[i]), *levels[i], *levels[i + 1]) for i in range(len(t))]
