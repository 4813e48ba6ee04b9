"""A sampler is a table; one loop runs every table.

Each row says at which level the network is asked, and how the next latent is mixed from the latent the step began
with, what the network said so far, and fresh noise. All weights are float64 numbers known before the loop starts.

    x' = row.x * base + sum_j row.m[j] * history[j] + row.noise * z          (history: newest first)

`history` holds denoised images or the network's raw predictions, whichever the method is linear in. A method that
asks the network several times in one step marks all its rows but the last `ends=False`: the base stays.

A new sampler is one function from steps to rows and one line in SAMPLERS.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from math import log, sqrt
from typing import NamedTuple

import mlx.core as mx

from . import schedule
from .denoise import denoised
from .errors import Failure, InputError
from .schedule import Scheduler, Step


class Row(NamedTuple):
    """One evaluation of the network, and the mix that follows it."""

    t: float  # the timestep the network is told
    a: float  # the latent it is given is a * image + s * noise
    s: float
    x: float  # weight of the latent the step began with
    m: tuple[float, ...]  # weights of the history, newest first
    noise: float = 0.0
    ends: bool = True  # whether the result is the base of the next step


class Table(NamedTuple):
    """Everything a run needs to know."""

    rows: tuple[Row, ...]
    prediction: str  # what the network predicts
    history: str = "denoised"  # what `m` weighs: "denoised" or "prediction"
    start: float = 1.0  # the first latent is start * unit noise


# ---------------------------------------------------------------------------------------------- one-step methods


def euler(steps: list[Step], scheduler: Scheduler) -> Table:
    """Euler's method in k = s / a, which is DDIM and DPM-Solver++(1) (Song et al. 2021, eq. 13)."""
    rows = []
    for p in steps:
        x, m = _drift(p.a, p.s, p.a1, p.s1)
        rows.append(Row(p.t, p.a, p.s, x, (m,)))
    return Table(tuple(rows), scheduler.prediction)


def euler_ancestral(steps: list[Step], scheduler: Scheduler) -> Table:
    """Euler to a lower level, then fresh noise up to the step's end (k-diffusion's sample_euler_ancestral, eta 1).

    Ends at zero whatever the checkpoint's final sigma is, as in diffusers.
    """
    rows = []
    steps = [*steps[:-1], steps[-1]._replace(a1=1.0, s1=0.0)]
    for p in steps:
        k, k1 = p.s / p.a, p.s1 / p.a1
        up = sqrt(k1**2 * (k**2 - k1**2) / k**2)
        x, m = _drift(p.a, p.s, p.a1, p.a1 * sqrt(k1**2 - up**2))
        rows.append(Row(p.t, p.a, p.s, x, (m,), noise=p.a1 * up))
    return Table(tuple(rows), scheduler.prediction)


# ---------------------------------------------------------------------------------------------- multistep methods


def dpmpp_2m(steps: list[Step], scheduler: Scheduler) -> Table:
    """DPM-Solver++(2M), midpoint form (Lu et al. 2022, algorithm 2); first order where diffusers is."""
    rows: list[Row] = []
    for i, p in enumerate(steps):
        x, m = _drift(p.a, p.s, p.a1, p.s1)
        last = i == len(steps) - 1 and (
            p.s1 == 0 or scheduler.euler_at_final or (scheduler.lower_order_final and len(steps) < 15)
        )
        if i == 0 or last:
            weights: tuple[float, ...] = (m,)
        else:
            before = steps[i - 1]
            c = 0.5 * (_lambda(p.a1, p.s1) - _lambda(p.a, p.s)) / (_lambda(p.a, p.s) - _lambda(before.a, before.s))
            weights = (m * (1 + c), -m * c)
        rows.append(Row(p.t, p.a, p.s, x, weights))
    return Table(tuple(rows), scheduler.prediction)


# Adams-Bashforth weights of orders 1 to 4, newest first.
_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms(steps: list[Step], scheduler: Scheduler) -> Table:
    """Pseudo linear multistep (Liu et al. 2022, eq. 12 and 13), started by Heun's method instead of Runge-Kutta.

    The second timestep is asked twice, so n steps are n + 1 evaluations. The multistep mean is of the network's raw
    predictions, whatever they are, as in diffusers' PNDMScheduler with skip_prk_steps.
    """
    if scheduler.prediction == "sample":
        raise InputError("plms takes networks that predict epsilon or v, not the sample; use ddim or dpmpp_2m")

    def move(level: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
        (a, s), (a1, s1) = level, end
        if scheduler.prediction == "v_prediction":
            return a1 * a + s1 * s, s1 * a - a1 * s
        return a1 / a, s1 - s * a1 / a

    first = steps[0]
    x, m = move((first.a, first.s), (first.a1, first.s1))
    rows = [Row(first.t, first.a, first.s, x, (m,), ends=len(steps) == 1)]
    if len(steps) > 1:  # the corrector: from where the stride before this timestep began, to this timestep
        p = steps[1]
        bar = scheduler.alphas_cumprod(exact_zero=True)[int(p.t) + scheduler.timesteps // len(steps)]
        x, m = move((sqrt(bar), sqrt(1 - bar)), (p.a, p.s))
        rows.append(Row(p.t, p.a, p.s, x, (m / 2, m / 2)))
    for i, p in enumerate(steps[1:]):
        x, m = move((p.a, p.s), (p.a1, p.s1))
        # The corrector's own evaluation is not kept, hence the zero in second place while it is in reach.
        weights = [m * c for c in _ADAMS[min(i + 1, 3)]]
        rows.append(Row(p.t, p.a, p.s, x, tuple(_without_corrector(weights, i + 1))))
    return Table(tuple(rows), scheduler.prediction, history="prediction")


def _without_corrector(weights: list[float], newer: int) -> list[float]:
    # `newer` evaluations came after the corrector's; what is older lies one place further back.
    return [*weights[:newer], 0.0, *weights[newer:]] if len(weights) > newer else weights


# ---------------------------------------------------------------------------------------------- the table and its loop


class Sampler(NamedTuple):
    """A method, the grid of steps it is defined on, and the schedules that grid knows."""

    rows: Callable[[list[Step], Scheduler], Table]
    grid: Callable[[Scheduler, int, str], list[Step]]
    schedules: tuple[str, ...]
    spacing: str  # the schedule where neither user nor checkpoint names one
    classes: tuple[str, ...]  # the diffusers schedulers that mean this method


_EVEN = (*schedule.SPACINGS, "sgm_uniform")
_ANY = (*_EVEN, "karras")

SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(euler, schedule.by_index, _EVEN, "leading", ("DDIMScheduler",)),
    "dpmpp_2m": Sampler(dpmpp_2m, schedule.by_half_step, _ANY, "linspace", ("DPMSolverMultistepScheduler",)),
    "euler": Sampler(euler, schedule.by_sigma, _ANY, "linspace", ("EulerDiscreteScheduler",)),
    "euler_ancestral": Sampler(
        euler_ancestral, schedule.by_sigma, _ANY, "linspace", ("EulerAncestralDiscreteScheduler",)
    ),
    "plms": Sampler(plms, partial(schedule.by_index, ends_clean=False), _EVEN, "leading", ("PNDMScheduler",)),
}


def names() -> tuple[str, ...]:
    """The names that `--sampler` takes."""
    return tuple(SAMPLERS)


def choose(scheduler: Scheduler, sampler: str | None, schedule_name: str | None) -> tuple[str, str]:
    """The (sampler, schedule) that the user asked for, filled in from the checkpoint's scheduler config.

    Raises InputError for an unknown name, a pair that does not fit, or a checkpoint whose scheduler is not here.
    """
    if sampler is None:
        if scheduler.problem:
            raise InputError(f"{scheduler.problem}; choose a sampler: {', '.join(names())}")
        sampler = next(name for name, s in SAMPLERS.items() if scheduler.class_name in s.classes)
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}; there are {', '.join(names())}")
    method = SAMPLERS[sampler]
    if schedule_name is None:
        karras = scheduler.karras and "karras" in method.schedules
        schedule_name = "karras" if karras else scheduler.spacing or method.spacing
    if schedule_name not in schedule.names():
        raise InputError(f"unknown schedule {schedule_name!r}; there are {', '.join(schedule.names())}")
    if schedule_name not in method.schedules:
        raise InputError(f"{sampler} does not go with {schedule_name}; it takes {', '.join(method.schedules)}")
    return sampler, schedule_name


def table(scheduler: Scheduler, sampler: str, schedule_name: str, steps: int) -> Table:
    """The rows of `steps` steps of a method on a schedule (names as `choose` returns them)."""
    if not 1 <= steps <= scheduler.timesteps:
        raise InputError(f"steps must be from 1 to {scheduler.timesteps}, not {steps}")
    method = SAMPLERS[sampler]
    found = method.grid(scheduler, steps, schedule_name)
    if any((p.a, p.s) == (q.a, q.s) for p, q in pairwise(found)):
        raise InputError(f"{steps} steps are too many for {sampler} on {schedule_name}: some would coincide")
    if scheduler.prediction == "epsilon" and found[0].a == 0:
        raise InputError(
            f"{sampler} starts at zero signal here (rescale_betas_zero_snr), where epsilon says nothing about the "
            "image; choose another sampler or a v-prediction checkpoint"
        )
    made = method.rows(found, scheduler)
    # The Euler family of diffusers starts at unit variance on "leading" and at its first sigma elsewhere.
    if method.grid is schedule.by_sigma and _spacing(scheduler, schedule_name) != "leading":
        return made._replace(start=found[0].s)
    return made


def run(
    table: Table,
    predict: Callable[[mx.array, float], mx.array],
    noise: mx.array,
    normal: Callable[[], mx.array],
    callback: Callable[[int, int, mx.array], None] | None = None,
) -> mx.array:
    """All of `evaluate`: the final latents. `callback(evaluation, evaluations, denoised)` follows each evaluation."""
    latents = noise
    for i, (x, image) in enumerate(evaluate(table, predict, noise, normal), 1):
        latents = x
        if callback is not None:
            callback(i, len(table.rows), image)
    return latents


def evaluate(
    table: Table,
    predict: Callable[[mx.array, float], mx.array],
    noise: mx.array,
    normal: Callable[[], mx.array],
) -> Iterator[tuple[mx.array, mx.array]]:
    """Runs a table from unit `noise` (N, h, w, c); yields (latents, denoised), float32, after each evaluation.

    `predict(x, t)` is the network, guidance and reuse included; `normal()` draws noise of the latents' shape, and is
    called only where a row adds some. Raises Failure as soon as the latents are not finite.
    """
    x = base = noise.astype(mx.float32) * table.start
    history: deque[mx.array] = deque(maxlen=max(len(row.m) for row in table.rows))
    for i, row in enumerate(table.rows):
        prediction = predict(x, row.t).astype(mx.float32)
        image = denoised(table.prediction, x, prediction, row.a, row.s)
        history.appendleft(image if table.history == "denoised" else prediction)
        x = row.x * base
        for weight, estimate in zip(row.m, history, strict=False):
            x = x + weight * estimate
        if row.noise:
            x = x + row.noise * normal()
        if row.ends:
            base = x
        mx.eval(x)
        if not mx.isfinite(x).all().item():
            raise Failure(
                f"the latents are not finite after evaluation {i + 1} of {len(table.rows)}: the weights hold NaN, "
                "or float16 overflowed (try --dtype float32)"
            )
        yield x, image


def _drift(a: float, s: float, a1: float, s1: float) -> tuple[float, float]:
    """Weights of latent and denoised image for a step that is exact if that image were constant."""
    return s1 / s, a1 - a * s1 / s


def _lambda(a: float, s: float) -> float:
    return log(a / s)


def _spacing(scheduler: Scheduler, schedule_name: str) -> str:
    return (scheduler.spacing or "linspace") if schedule_name == "karras" else schedule_name
