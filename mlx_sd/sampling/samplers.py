"""A sampler is a table; one loop runs every table.

Each row says at which level the network is asked, and how the next latent is mixed from the latent the step began
with, what the network said so far, and fresh noise. All weights are float64 numbers known before the loop starts.

    x' = row.x * base + sum_j row.m[j] * history[j] + row.noise * z          (history: newest first)

`history` holds denoised images, estimates of the noise or the network's raw predictions, whichever the method is linear
in. A method that asks the network several times in one step marks all its rows but the last `ends=False`: the base
stays. A corrector makes the base anew, in the same way, once it knows what the network says at the step's end.

A new sampler is one function from steps to rows, in onestep.py or multistep.py, and one line in SAMPLERS.

DNDM (Chen et al. 2023, arXiv 2312.09193) is not among them: it fixes beforehand when each token of a discrete
(absorbing or multinomial) diffusion changes, and asks the network only then. Latents here are continuous and change at
every time; what corresponds to it is DDIM.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

import mlx.core as mx

from ..core.errors import Failure, InputError
from . import multistep, onestep, plms
from . import schedules as schedule
from .denoise import clipped, denoised, noise_in
from .scheduler import Scheduler
from .schedules import Grid, Steps
from .table import Options, Row, Table

__all__ = ["SAMPLERS", "Options", "Row", "Sampler", "Table", "choose", "evaluate", "names", "run", "table"]


class Sampler(NamedTuple):
    """A method, the grid of steps it is defined on, and the schedules that grid knows."""

    rows: Callable[[Steps, Scheduler, Options], Table]
    grid: Callable[[Scheduler, int, str, float], Grid]
    schedules: tuple[str, ...]
    spacing: str  # the schedule where neither user nor checkpoint names one
    takes: Mapping[str, Sequence[Any]] = {}  # option -> the values it may have; two floats are a range
    corrector: bool | None = False  # UniC: True by default, False where asked for, None never


_EVEN = ("sgm_uniform", "leading", "linspace", "trailing")
_DISTILLED = ("sgm_uniform", "trailing", "timesteps")
_INDEXED = tuple(name for name in (*schedule.names(), "timesteps") if name not in schedule.SHAPES)
_ANY = (*schedule.names(), "timesteps", "sigmas")

_UNIT, _POSITIVE = (0.0, 1.0), (0.0, inf)
_ORDERS, _KINDS = (1, 2, 3), ("midpoint", "heun")
_CHURN = dict.fromkeys(("s_churn", "s_tmin", "s_tmax", "s_noise"), _POSITIVE)

_zero, _low = partial(schedule.by_sigma, ends_zero=True), partial(schedule.by_half_step, ends_low=True)
_plms = partial(schedule.by_index, ends_clean=False)
_tcd = partial(schedule.by_distillation, ends_clean=False)

SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(onestep.euler, schedule.by_sigma, _ANY, "linspace"),
    "euler_ancestral": Sampler(onestep.euler_ancestral, _zero, _ANY, "linspace", {"eta": _UNIT}, None),
    "heun": Sampler(onestep.heun, _zero, _ANY, "linspace", {}, None),
    "lms": Sampler(multistep.lms, _zero, _ANY, "linspace", {"order": (1, 2, 3, 4)}),
    "ddim": Sampler(onestep.ddim, schedule.by_index, _INDEXED, "leading", {"eta": _UNIT}),
    "ddpm": Sampler(onestep.ddpm, schedule.by_entry, _INDEXED, "leading", {}, None),
    "plms": Sampler(plms.plms, _plms, _EVEN, "leading", {}, None),
    "dpmpp_2m": Sampler(multistep.dpmpp_2m, schedule.by_half_step, _ANY, "linspace", {"order": (1, 2), "kind": _KINDS}),
    "dpmpp_2m_sde": Sampler(
        multistep.dpmpp_2m_sde, schedule.by_half_step, _ANY, "linspace", {"order": (1, 2), "kind": _KINDS}, None
    ),
    "dpmpp_3m": Sampler(multistep.dpmpp_3m, schedule.by_half_step, _ANY, "linspace", {"kind": _KINDS}),
    "dpmpp_2s": Sampler(
        onestep.dpmpp_2s, schedule.by_half_step, _ANY, "linspace", {"order": _ORDERS, "kind": _KINDS}, None
    ),
    "dpm_2m": Sampler(multistep.dpm_2m, _low, _ANY, "linspace", {"order": _ORDERS, "kind": _KINDS}),
    "deis": Sampler(multistep.deis, _low, _ANY, "linspace", {"order": _ORDERS}),
    "unipc": Sampler(
        multistep.unipc, schedule.by_half_step, _ANY, "linspace", {"order": _ORDERS, "kind": ("bh2", "bh1")}, True
    ),
    "edm": Sampler(onestep.edm, _zero, _ANY, "karras", {"order": (1, 2), **_CHURN}, None),
    "lcm": Sampler(onestep.lcm, schedule.by_distillation, _DISTILLED, "trailing", {}, None),
    "tcd": Sampler(onestep.tcd, _tcd, _DISTILLED, "trailing", {"gamma": _UNIT}, None),
}


def names() -> tuple[str, ...]:
    """The names that `--sampler` takes."""
    return tuple(SAMPLERS)


def choose(
    scheduler: Scheduler, sampler: str | None = None, schedule_name: str | None = None, options: Options | None = None
) -> tuple[str, str, Options]:
    """The sampler, schedule and options that the user asked for, filled in from the checkpoint's scheduler config.

    A checkpoint's options hold for its own sampler. Raises InputError for an unknown name, a pair that does not fit, an
    option out of range, or a checkpoint whose scheduler is not here.
    """
    if sampler is None:
        if scheduler.sampler is None:
            raise InputError(f"{scheduler.problem}; choose a sampler: {', '.join(names())}")
        sampler = scheduler.sampler
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}; there are {', '.join(names())}")
    possible = SAMPLERS[sampler].schedules
    if scheduler.edm:
        possible = tuple(name for name in ("karras", "exponential", "ays", "sigmas") if name in possible)
        if not possible:
            raise InputError(f"{sampler} needs timesteps, which this checkpoint does not know; use euler or dpmpp_2m")
    if schedule_name is None:
        wanted = (scheduler.sigmas, scheduler.spacing, SAMPLERS[sampler].spacing, *possible)
        schedule_name = next(name for name in wanted if name in possible)
    schedule_name = schedule.resolve(schedule_name, scheduler)
    if schedule_name.partition("=")[0] not in possible:
        shown = schedule_name.partition("=")[0]
        raise InputError(f"{sampler} does not go with {shown}; it takes {', '.join(possible)}")
    asked = {name: value for name, value in asdict(options or Options()).items() if value is not None}
    _check(sampler, schedule_name, asked)
    if asked.get("eta") and asked.get("corrector"):
        raise InputError("the corrector does a step again without its noise; leave out --eta or --corrector")
    own = scheduler.options if sampler == scheduler.sampler else Options()
    if schedule_name != "karras":
        own = replace(own, rho=None)
    return sampler, schedule_name, replace(own, **asked)


def _check(sampler: str, schedule_name: str, asked: Mapping[str, Any]) -> None:
    method = SAMPLERS[sampler]
    for name, value in asked.items():
        if name == "rho":
            if schedule_name != "karras":
                raise InputError(f"rho is of the karras schedule, not of {schedule_name.partition('=')[0]}")
            if not 0 < value < inf:
                raise InputError(f"rho must be above 0, not {value}")
        elif name == "corrector":
            if value and method.corrector is None:
                able = [other for other, m in SAMPLERS.items() if m.corrector is not None]
                raise InputError(f"{sampler} takes no corrector; {', '.join(able)} do")
        elif name not in method.takes:
            able = [other for other, m in SAMPLERS.items() if name in m.takes]
            raise InputError(f"{sampler} takes no {name}; {', '.join(able)} {'do' if len(able) > 1 else 'does'}")
        elif method.takes[name] in (_UNIT, _POSITIVE):
            low, high = method.takes[name]
            if not low <= value <= high:
                raise InputError(f"{name} must be {low:g} or more" + f", to {high:g}" * (high < inf) + f", not {value}")
        elif value not in method.takes[name]:
            raise InputError(f"{name} of {sampler} must be {' or '.join(map(str, method.takes[name]))}, not {value}")


def table(
    scheduler: Scheduler, sampler: str, schedule_name: str, options: Options, steps: int, begin: int | None = None
) -> Table:
    """The rows of `steps` steps of a method on a schedule (names and options as `choose` returns them).

    They start from noise, or midway: without the first `begin` steps, from an image with the noise of the level there.
    A method with a memory then starts anew. diffusers' `strength` is begin = steps - int(steps * strength).
    Raises InputError for steps or a `begin` out of range, and where the network would be asked what it cannot know.
    """
    if not 1 <= steps <= scheduler.timesteps:
        raise InputError(f"steps must be from 1 to {scheduler.timesteps}, not {steps}")
    if begin is not None and not 0 <= begin < steps:
        raise InputError(f"the step to begin at must be from 0 to {steps - 1} where there are {steps}, not {begin}")
    method = SAMPLERS[sampler]
    whole, start = method.grid(scheduler, steps, schedule_name, options.rho or schedule.RHO)
    if any((p.a, p.s) == (q.a, q.s) for p, q in pairwise(whole)):
        raise InputError(f"{steps} steps are too many for {sampler} on {schedule_name}: some would coincide")
    found = Steps(whole[begin:], len(whole))
    if scheduler.prediction == "epsilon" and found[0].a == 0:
        raise InputError(
            f"{sampler} starts at zero signal here (rescale_betas_zero_snr), where epsilon says nothing about the "
            "image; choose another sampler or a v-prediction checkpoint"
        )
    made = method.rows(found, scheduler, options)
    if options.corrector if options.corrector is not None else method.corrector:
        if found[0].a == 0:
            raise InputError("the corrector cannot start at zero signal (rescale_betas_zero_snr); use it with euler")
        made = multistep.corrected(made, found, options)
    made = made._replace(deviation=scheduler.deviation)
    if begin is None:
        return made._replace(start=made.start * start)
    return made._replace(start=made.start * found[0].s, image=made.start * found[0].a / made.deviation)


def run(
    table: Table,
    predict: Callable[[mx.array, float], mx.array],
    noise: mx.array,
    normal: Callable[[], mx.array],
    callback: Callable[[int, int, mx.array], None] | None = None,
    image: mx.array | None = None,
    keep: Callable[[mx.array, float, float], mx.array] | None = None,
) -> mx.array:
    """All of `evaluate`: the final latents. `callback(evaluation, evaluations, denoised)` follows each evaluation."""
    latents = noise
    for i, (x, estimate) in enumerate(evaluate(table, predict, noise, normal, image, keep), 1):
        latents = x
        if callback is not None:
            callback(i, len(table.rows), estimate)
    return latents


def evaluate(
    table: Table,
    predict: Callable[[mx.array, float], mx.array],
    noise: mx.array,
    normal: Callable[[], mx.array],
    image: mx.array | None = None,
    keep: Callable[[mx.array, float, float], mx.array] | None = None,
) -> Iterator[tuple[mx.array, mx.array]]:
    """Runs a table from unit `noise` (N, h, w, c); yields (latents, denoised), float32, after each evaluation.

    `predict(x, t)` is the network, guidance and reuse included; `normal()` draws noise of the latents' shape, and is
    called only where a row adds some. A table that begins midway needs an `image`: scaled latents that broadcast to
    those of the noise. `keep(x, a, s)` may change what each row leads to, which is of the level (a, s). Raises
    InputError where the image is missing, Failure as soon as the latents are not finite.
    """
    if (table.image is None) != (image is None):
        raise InputError("a table that begins midway needs the image it starts from, and no other takes one")
    x = noise.astype(mx.float32) * table.start
    if table.image is not None and image is not None:
        x = x + table.image * image.astype(mx.float32)
    if table.churn:
        x = x + table.churn * normal()
    base, levels = x, table.levels
    longest = max(max(len(row.m), len(row.again[1]) if row.again else 0) for row in table.rows)
    history: deque[mx.array] = deque(maxlen=longest)
    for i, row in enumerate(table.rows):
        prediction = predict(x, row.t).astype(mx.float32)
        whole = estimate = denoised(table.prediction, x, prediction, row.a, row.s)
        if table.clip:
            estimate = clipped(whole, table.clip)
        if table.history == "noise":
            history.appendleft(noise_in(table.prediction, x, prediction, row.a, row.s))
        else:
            history.appendleft(estimate if table.history == "denoised" else prediction)
        if row.again:
            base = _mix(*row.again, base, history)
        x = _mix(row.x, row.m, base, history)
        if table.clip and row.cut:
            x = x + row.cut * (whole - estimate)
        if row.noise:
            x = x + row.noise * normal()
        if keep:
            x = keep(x, *levels[i])
        if row.ends:
            base = x
        mx.eval(x)
        if not mx.isfinite(x).all().item():
            raise Failure(
                f"the latents are not finite after evaluation {i + 1} of {len(table.rows)}: the weights hold NaN, "
                "or float16 overflowed (try --dtype float32)"
            )
        yield x, estimate


def _mix(x: float, m: Sequence[float], base: mx.array, history: deque[mx.array]) -> mx.array:
    mixed = x * base
    for weight, estimate in zip(m, history, strict=False):
        if weight:
            mixed = mixed + weight * estimate
    return mixed
