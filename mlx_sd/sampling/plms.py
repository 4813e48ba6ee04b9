"""Pseudo linear multistep: PNDM, the sampler of the first Stable Diffusion checkpoints."""

from itertools import pairwise

from ..core.errors import InputError
from .scheduler import Scheduler
from .steps import Level, Step, Steps
from .table import Mix, Options, Row, Table

# Adams-Bashforth weights of orders 1 to 4, newest first.
_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates pseudo linear multistep (Liu et al. 2022, eq. 12 and 13), of raw predictions as in diffusers.

    It starts with Heun's method (n + 1 evaluations for n steps), or where skip_prk_steps is false and there are at
    least 4 steps, with three steps of Runge-Kutta (n + 9 evaluations). A run that begins midway starts in the same way;
    diffusers cuts its list of timesteps without regard to the start, and so calls the network at levels that the
    latents are not at. Raises InputError for networks that predict the sample.
    """
    if scheduler.prediction_type == "sample":
        raise InputError("plms takes networks that predict epsilon or v, not the sample; use ddim or dpmpp_2m")
    stride = scheduler.num_train_timesteps // steps.total
    rows: list[Row] = []
    averaged: list[int] = []  # indices of the rows whose predictions the multistep average is of
    remaining: list[Step] = steps
    if scheduler.runge_kutta_start and len(steps) >= 4:
        rows, averaged, remaining = _runge_kutta(steps, scheduler, stride), [0, 4, 8], steps[3:]
    elif len(steps) > 1:
        rows, averaged, remaining = _heun(steps, scheduler, stride), [0], steps[1:]
    for timestep, start, end in remaining:
        averaged.append(len(rows))
        base, prediction = _ddim(scheduler, start, end)
        adams = _ADAMS[min(len(averaged), 4) - 1]
        weights = [0.0] * (len(rows) - averaged[-len(adams)] + 1)
        for index, weight in zip(reversed(averaged), adams, strict=False):
            weights[len(rows) - index] = prediction * weight
        rows.append(Row(timestep, start, Mix(base, tuple(weights))))
    return Table(tuple(rows), scheduler.prediction_type, "prediction")


def _heun(steps: list[Step], scheduler: Scheduler, stride: int) -> list[Row]:
    """Returns the two rows of a first step by Heun's method."""
    first, second = steps[:2]
    base, prediction = _ddim(scheduler, first.start, first.end)
    rows = [Row(first.timestep, first.start, Mix(base, (prediction,)), ends_step=False)]
    # From one stride above this timestep, which on uneven spacings is not where the first step began.
    base, prediction = _ddim(scheduler, _level(scheduler, second.timestep + stride), second.start)
    return [*rows, Row(second.timestep, second.start, Mix(base, (prediction / 2, prediction / 2)))]


def _runge_kutta(steps: list[Step], scheduler: Scheduler, stride: int) -> list[Row]:
    """Returns the twelve rows of three first steps by the classical Runge-Kutta method."""
    rows = []
    for (timestep, start, _), (next_timestep, end, _) in pairwise(steps[:4]):
        half = stride // 2
        middle = _level(scheduler, next_timestep + half)
        base, prediction = _ddim(scheduler, start, _level(scheduler, timestep - half))
        rows.append(Row(timestep, start, Mix(base, (prediction,)), ends_step=False))
        base, prediction = _ddim(scheduler, start, middle)
        rows.append(Row(next_timestep + half, middle, Mix(base, (prediction,)), ends_step=False))
        base, prediction = _ddim(scheduler, start, end)
        rows.append(Row(next_timestep + half, middle, Mix(base, (prediction,)), ends_step=False))
        weights = prediction / 6, prediction / 3, prediction / 3, prediction / 6
        rows.append(Row(next_timestep, end, Mix(base, weights)))
    return rows


def _ddim(scheduler: Scheduler, start: Level, end: Level) -> tuple[float, float]:
    """Returns the weights of the latents and of the raw prediction in a step of DDIM."""
    if scheduler.prediction_type == "v_prediction":
        base = end.signal * start.signal + end.noise * start.noise
        return base, end.noise * start.signal - end.signal * start.noise
    return end.signal / start.signal, end.noise - start.noise * end.signal / start.signal


def _level(scheduler: Scheduler, timestep: float) -> Level:
    """Returns the noise level of a training timestep."""
    return Level.from_alpha_cumprod(float(scheduler.alphas_cumprod(exact_zero=True)[int(timestep)]))
