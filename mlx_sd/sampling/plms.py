"""Pseudo linear multistep: PNDM, the sampler of the first Stable Diffusion checkpoints."""

from itertools import pairwise
from math import sqrt

from ..core.errors import InputError
from .quadrature import Level
from .scheduler import Scheduler
from .schedules import Step, Steps
from .table import Options, Row, Table

# Adams-Bashforth weights of orders 1 to 4, newest first.
_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Pseudo linear multistep (Liu et al. 2022, eq. 12 and 13), of the network's raw predictions as in diffusers.

    It is started by Heun's method, n + 1 evaluations, or where skip_prk_steps is false and there are 4 steps, by three
    steps of Runge-Kutta, n + 9 evaluations. A run that begins midway starts in the same way; diffusers cuts its list of
    timesteps without regard to the start, and so asks the network about levels that the latents are not at.
    """
    if scheduler.prediction == "sample":
        raise InputError("plms takes networks that predict epsilon or v, not the sample; use ddim or dpmpp_2m")
    stride = scheduler.timesteps // steps.total
    rows: list[Row] = []
    kept: list[int] = []  # the evaluations that the multistep mean is of
    rest: list[Step] = steps
    if scheduler.runge_kutta and len(steps) >= 4:
        rows, kept, rest = _runge_kutta(steps, scheduler, stride), [0, 4, 8], steps[3:]
    elif len(steps) > 1:
        rows, kept, rest = _heun(steps, scheduler, stride), [0], steps[1:]
    for p in rest:
        kept.append(len(rows))
        here = (p.a, p.s)
        x, m = _move(scheduler, here, (p.a1, p.s1))
        weights = _ADAMS[min(len(kept), 4) - 1]
        places = [0.0] * (len(rows) - kept[-len(weights)] + 1)
        for index, weight in zip(reversed(kept), weights, strict=False):
            places[len(rows) - index] = m * weight
        rows.append(Row(p.t, *here, x, tuple(places)))
    return Table(tuple(rows), scheduler.prediction, "prediction")


def _heun(steps: list[Step], scheduler: Scheduler, stride: int) -> list[Row]:
    p, q = steps[:2]
    x, m = _move(scheduler, (p.a, p.s), (p.a1, p.s1))
    rows = [Row(p.t, p.a, p.s, x, (m,), ends=False)]
    # From where the stride before this timestep began, which on uneven spacings is not where the first step did.
    x, m = _move(scheduler, _level(scheduler, q.t + stride), (q.a, q.s))
    return [*rows, Row(q.t, q.a, q.s, x, (m / 2, m / 2))]


def _runge_kutta(steps: list[Step], scheduler: Scheduler, stride: int) -> list[Row]:
    rows = []
    for p, q in pairwise(steps[:4]):
        half = stride // 2
        middle, start, end = _level(scheduler, q.t + half), (p.a, p.s), (q.a, q.s)
        x, m = _move(scheduler, start, _level(scheduler, p.t - half))
        rows.append(Row(p.t, *start, x, (m,), ends=False))
        x, m = _move(scheduler, start, middle)
        rows.append(Row(q.t + half, *middle, x, (m,), ends=False))
        x, m = _move(scheduler, start, end)
        rows.append(Row(q.t + half, *middle, x, (m,), ends=False))
        rows.append(Row(q.t, *end, x, (m / 6, m / 3, m / 3, m / 6)))
    return rows


def _move(scheduler: Scheduler, level: Level, end: Level) -> tuple[float, float]:
    """Weights of the latent and the raw prediction in a DDIM step."""
    (a, s), (a1, s1) = level, end
    if scheduler.prediction == "v_prediction":
        return a1 * a + s1 * s, s1 * a - a1 * s
    return a1 / a, s1 - s * a1 / a


def _level(scheduler: Scheduler, t: float) -> Level:
    bar = float(scheduler.alphas_cumprod(exact_zero=True)[int(t)])
    return sqrt(bar), sqrt(1 - bar)
