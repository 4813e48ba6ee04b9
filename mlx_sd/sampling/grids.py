"""Grids: for each family of samplers, the steps that a schedule gives: timestep, start level and end level.

The families differ, as they do in diffusers, in whether timesteps are whole numbers and in where the last step ends.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from . import schedules
from .scheduler import SPACINGS, Edm, Scheduler
from .schedules import FRACTIONAL, RHO
from .steps import Grid, Level, Step

Floats = NDArray[np.float64]


def ddim(scheduler: Scheduler, num_steps: int, schedule: str, rho: float = RHO, alpha_to_one: bool = True) -> Grid:
    """Returns the grid of DDIM and PLMS: whole timesteps.

    On even spacings each step ends num_train_timesteps // num_steps below its start, wherever the next begins.
    `alpha_to_one` is used if the checkpoint does not set set_alpha_to_one: the last step ends without noise.
    """
    alphas_cumprod = scheduler.alphas_cumprod(exact_zero=True)
    if scheduler.set_alpha_to_one is not None:
        alpha_to_one = scheduler.set_alpha_to_one
    final = Level.from_alpha_cumprod(1.0 if alpha_to_one else alphas_cumprod[0])
    t = _whole_timesteps(scheduler, num_steps, schedule)
    even = schedule in (*SPACINGS, "sgm_uniform", "diffusers_sgm_uniform")
    ends = t - scheduler.num_train_timesteps // num_steps if even else np.append(t[1:], -1)

    levels = [Level.from_alpha_cumprod(value) for value in alphas_cumprod[t]]
    end_levels = [Level.from_alpha_cumprod(alphas_cumprod[end]) if end >= 0 else final for end in ends]
    return Grid([Step(float(t[i]), levels[i], end_levels[i]) for i in range(len(t))])


def ddpm(scheduler: Scheduler, num_steps: int, schedule: str, rho: float = RHO) -> Grid:
    """Returns the grid of DDPM: whole timesteps, each step ending where the next begins, the last without noise."""
    t = _whole_timesteps(scheduler, num_steps, schedule)
    return _at_timesteps(scheduler, t, final_alpha_cumprod=1.0)


def distilled(scheduler: Scheduler, num_steps: int, schedule: str, rho: float = RHO, alpha_to_one: bool = True) -> Grid:
    """Returns the grid of LCM and TCD: some of the original_inference_steps that the network was distilled on.

    The last step ends without noise or, if not `alpha_to_one`, at the first timestep of training. Raises InputError for
    more steps than the network was distilled on.
    """
    if schedules.user_list(schedule):
        t = schedules.timesteps(scheduler, num_steps, schedule).astype(int)
    else:
        count = scheduler.original_inference_steps
        if num_steps > count:
            raise InputError(f"a distilled network takes 1 to {count} steps, not {num_steps}")
        trained = np.arange(count, 0, -1) * (scheduler.num_train_timesteps // count) - 1
        t = trained[np.floor(np.linspace(0, len(trained), num_steps, endpoint=False)).astype(int)]
    return _at_timesteps(scheduler, t, 1.0 if alpha_to_one else scheduler.alphas_cumprod()[0])


def _whole_timesteps(scheduler: Scheduler, num_steps: int, schedule: str) -> NDArray[np.int64]:
    """Returns the timesteps of a schedule in whole numbers, "sgm_uniform" as diffusers has it ("trailing")."""
    spacing = "trailing" if schedule == "sgm_uniform" else schedule
    return np.asarray(schedules.timesteps(scheduler, num_steps, spacing).round(), np.int64)


def _at_timesteps(scheduler: Scheduler, t: NDArray[np.int64], final_alpha_cumprod: float) -> Grid:
    alphas_cumprod = (*scheduler.alphas_cumprod(exact_zero=True)[t], final_alpha_cumprod)
    levels = [Level.from_alpha_cumprod(value) for value in alphas_cumprod]
    return Grid([Step(float(t[i]), levels[i], levels[i + 1]) for i in range(len(t))])


def k_diffusion(
    scheduler: Scheduler, num_steps: int, schedule: str, rho: float = RHO, always_to_zero: bool = False
) -> Grid:
    """Returns the grid of the Euler family: fractional timesteps, each step ending where the next begins.

    The last step ends at the checkpoint's final sigma, or if `always_to_zero` at 0, in k-diffusion's scale (image +
    sigma * noise).
    """
    if scheduler.edm:
        return _edm(scheduler, scheduler.edm, num_steps, schedule, rho)
    shape = schedules.shape_of(schedule)
    named = schedule in schedules.names() and not shape
    spacing = schedule if named else scheduler.timestep_spacing or "linspace"
    final = 0.0 if always_to_zero or scheduler.final_sigma_zero else None
    if shape:
        spaced: Floats | NDArray[np.float32] = scheduler.train_sigmas()[::-1]
        if schedule in schedules.DIFFUSERS:
            spaced = schedules.sigmas_at(scheduler, schedules.timesteps(scheduler, num_steps, spacing), spacing)
        sigmas = schedules.shaped_sigmas(shape, float(spaced[-1]), float(spaced[0]), num_steps, rho)
        steps = _chain(scheduler, scheduler.timestep(sigmas), sigmas, final)
    else:
        steps = _at_schedule(scheduler, num_steps, schedule, _unrounded, final)
    last = steps[-1]
    steps[-1] = last._replace(end=Level(1.0, last.end.sigma))
    # diffusers starts at unit variance on "leading", and elsewhere leaves the image's share of the variance out.
    unit = (spacing if spacing in SPACINGS else scheduler.timestep_spacing) == "leading"
    return Grid(steps, 1.0 if unit else steps[0].start.noise)


def dpm_solver(
    scheduler: Scheduler, num_steps: int, schedule: str, rho: float = RHO, never_to_zero: bool = False
) -> Grid:
    """Returns the grid of the DPM-Solver family: as `k_diffusion`, but whole timesteps, spaced as for one step more.

    The last step ends at the checkpoint's final sigma, or if `never_to_zero` at the lowest of training.
    """
    if scheduler.edm:
        return _edm(scheduler, scheduler.edm, num_steps, schedule, rho)
    final = 0.0 if scheduler.final_sigma_zero and not never_to_zero else None
    if shape := schedules.shape_of(schedule):
        trained = scheduler.train_sigmas()
        sigmas = schedules.shaped_sigmas(shape, float(trained[0]), float(trained[-1]), num_steps, rho)
        t = scheduler.timestep(sigmas)
        truncated = schedule in ("diffusers_exponential", "diffusers_beta")
        return Grid(_chain(scheduler, np.floor(t) if truncated else t.round(), sigmas, final))
    return Grid(_at_schedule(scheduler, num_steps, schedule, np.round, final, one_more=True))


def _edm(scheduler: Scheduler, edm: Edm, num_steps: int, schedule: str, rho: float) -> Grid:
    """Returns the grid of an EDM checkpoint: levels of images divided by sigma_data, which the last step undoes."""
    listed = schedules.user_list(schedule)
    final = 0.0 if scheduler.final_sigma_zero else edm.sigma_min
    if listed:
        sigmas = np.array(listed[1])
    elif schedule == "ays":  # the published list may begin above the sigmas that this network was trained on
        published = np.array(scheduler.ays)
        first = np.interp(-np.log(edm.sigma_max), -np.log(published), np.arange(len(published)))
        sigmas = np.append(schedules.log_linear(published, num_steps, float(first)), final)
    else:
        shape = schedule.removeprefix("diffusers_")
        sigmas = np.append(schedules.shaped_sigmas(shape, edm.sigma_min, edm.sigma_max, num_steps, rho), final)
    scaled = sigmas / edm.sigma_data
    steps = _chain(scheduler, scheduler.timestep(scaled[:-1]), scaled[:-1], float(scaled[-1]))
    steps[-1] = steps[-1]._replace(end=Level(edm.sigma_data, float(sigmas[-1])))
    return Grid(steps, sqrt(edm.sigma_max**2 + 1) / sqrt(sigmas[0] ** 2 + edm.sigma_data**2))


def _unrounded(t: Floats) -> Floats:
    return t


def _at_schedule(
    scheduler: Scheduler,
    num_steps: int,
    schedule: str,
    rounding: Callable[[Floats], Floats],
    final: float | None,
    one_more: bool = False,
) -> list[Step]:
    """Returns the steps of a spacing or of a user's list; the network is called with timesteps after `rounding`.

    `one_more`: even spacings are those of one step more, without its last.
    """
    listed = schedules.user_list(schedule)
    if listed and listed[0] == "sigmas":
        sigmas = np.array(listed[1])
        return _chain(scheduler, rounding(scheduler.timestep(sigmas[:-1])), sigmas[:-1], float(sigmas[-1]))
    extra = one_more and schedule in ("leading", "linspace")
    t = schedules.timesteps(scheduler, num_steps + extra, schedule)[:num_steps]
    if schedule not in (*FRACTIONAL, "ays"):
        t = rounding(t)
    sigmas = schedules.sigmas_at(scheduler, t, schedule)
    return _chain(scheduler, t.round() if schedule in FRACTIONAL else rounding(t), sigmas, final)


def _chain(scheduler: Scheduler, t: Floats, sigmas: Floats, final: float | None) -> list[Step]:
    """Returns the steps from each sigma to the next; the last to `final`, or for None to the lowest of training."""
    final = float(scheduler.train_sigmas()[0]) if final is None else final
    levels = [Level.from_sigma(float(sigma)) for sigma in (*sigmas, final)]
    return [Step(float(t[i]), levels[i], levels[i + 1]) for i in range(len(t))]
