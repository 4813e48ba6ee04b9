"""Schedules: at which timesteps the network is asked, and at which noise levels.

A level is a pair (a, s): the latent there is x = a * image + s * noise with a^2 + s^2 = 1, so that the network takes
x as it is. k = s / a is the sigma of the k-diffusion literature.

A schedule is a name, or what a user gives: "timesteps=999,850,..." or "sigmas=14.6,6.5,...,0", one more than steps.
"""

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from math import isfinite, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from ..core.errors import InputError
from .scheduler import SPACINGS, Edm, Scheduler

SHAPES = ("karras", "exponential", "beta")  # of the levels themselves, between the highest and the lowest
RHO = 7.0  # Karras et al. 2022, eq. 5

_GIVEN = ("timesteps", "sigmas")


def names() -> tuple[str, ...]:
    """The names that `--schedule` takes."""
    return ("normal", *SHAPES, "sgm_uniform", "simple", "ays", *SPACINGS)


class Step(NamedTuple):
    """One step: the network is told timestep `t` about a latent at level (a, s); the step ends at level (a1, s1)."""

    t: float
    a: float
    s: float
    a1: float
    s1: float


class Steps(list[Step]):
    """The steps that a run takes: the last ones of a grid of `total` steps, all of it unless said otherwise."""

    def __init__(self, steps: Iterable[Step], total: int | None = None):
        super().__init__(steps)
        self.total = len(self) if total is None else total


class Grid(NamedTuple):
    """The steps of a run, and what unit noise is multiplied by to be the first latent."""

    steps: list[Step]
    start: float = 1.0


# ---------------------------------------------------------------------------------------------- given by the user


def resolve(text: str, scheduler: Scheduler) -> str:
    """A name, or the list that a user gives, or the one in the JSON file that is named, checked.

    Raises InputError that says what is wrong, with the names there are.
    """
    if text in names():
        return text
    if text.endswith(".json"):
        text = _read(Path(text))
    kind, _, values = text.partition("=")
    if kind not in _GIVEN:
        raise InputError(f"unknown schedule {text!r}; there are {', '.join(names())}, or a .json file")
    try:
        numbers = [float(v) for v in values.split(",")]
    except ValueError:
        raise InputError(f"{kind} must be numbers with commas between them, not {values!r}") from None
    falling = all(p > q for p, q in pairwise(numbers)) and all(map(isfinite, numbers))
    if kind == "timesteps":
        highest = scheduler.timesteps - 1
        if not (falling and highest >= numbers[0] and numbers[-1] >= 0 and all(v == int(v) for v in numbers)):
            raise InputError(f"timesteps must be whole numbers from {highest} down to 0, each below the one before")
    elif not falling or len(numbers) < 2 or numbers[-1] < 0:
        raise InputError("sigmas must be at least two numbers, each below the one before, down to 0 or above it")
    return f"{kind}={','.join(f'{v:.17g}' for v in numbers)}"


def _read(path: Path) -> str:
    try:
        held = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path} is not JSON") from None
    found = [kind for kind in _GIVEN if isinstance(held, dict) and isinstance(held.get(kind), list)]
    if len(found) != 1:
        raise InputError(f'{path} must hold either {{"timesteps": [...]}} or {{"sigmas": [...]}}')
    return f"{found[0]}={','.join(map(str, held[found[0]]))}"


def given(schedule: str) -> tuple[str, list[float]] | None:
    """("timesteps" or "sigmas", the numbers) where a resolved schedule is a list."""
    kind, _, values = schedule.partition("=")
    return (kind, [float(v) for v in values.split(",")]) if values else None


def steps_of(schedule: str) -> int | None:
    """How many steps a resolved schedule has, where that is not free."""
    found = given(schedule)
    return None if found is None else len(found[1]) - (found[0] == "sigmas")


# ---------------------------------------------------------------------------------------------- grids of samplers


def by_index(scheduler: Scheduler, steps: int, schedule: str, rho: float = RHO, ends_clean: bool = True) -> Grid:
    """Steps of DDIM and PLMS: integer timesteps, on even spacings each ending T // steps further on whatever is next.

    `ends_clean` is what the method does at the end where the checkpoint's set_alpha_to_one does not say.
    """
    bar = scheduler.alphas_cumprod(exact_zero=True)
    final = 1.0 if (ends_clean if scheduler.ends_clean is None else scheduler.ends_clean) else bar[0]
    t = _timesteps(scheduler, steps, schedule).round().astype(int)
    strides = schedule in (*SPACINGS, "sgm_uniform")
    ends = t - scheduler.timesteps // steps if strides else np.append(t[1:], -1)
    levels = [(_level(bar[i]), _level(bar[j] if j >= 0 else final)) for i, j in zip(t, ends, strict=True)]
    return Grid([Step(float(i), *here, *end) for i, (here, end) in zip(t, levels, strict=True)])


def by_entry(scheduler: Scheduler, steps: int, schedule: str, rho: float = RHO) -> Grid:
    """Steps of DDPM: integer timesteps, each ending where the next begins, and the last at the image."""
    return _entries(scheduler, _timesteps(scheduler, steps, schedule).round().astype(int), 1.0)


def by_distillation(scheduler: Scheduler, steps: int, schedule: str, rho: float = RHO, ends_clean: bool = True) -> Grid:
    """Steps of LCM and TCD: some of the few timesteps that the network was distilled on."""
    if given(schedule):
        t = _timesteps(scheduler, steps, schedule).astype(int)
    else:
        if steps > scheduler.distilled:
            raise InputError(f"a distilled network takes 1 to {scheduler.distilled} steps, not {steps}")
        known = np.arange(scheduler.distilled, 0, -1) * (scheduler.timesteps // scheduler.distilled) - 1
        t = known[np.floor(np.linspace(0, len(known), steps, endpoint=False)).astype(int)]
    return _entries(scheduler, t, 1.0 if ends_clean else scheduler.alphas_cumprod()[0])


def _entries(scheduler: Scheduler, t: NDArray[np.int64], final: float) -> Grid:
    levels = [_level(v) for v in (*scheduler.alphas_cumprod(exact_zero=True)[t], final)]
    return Grid([Step(float(t[i]), *levels[i], *levels[i + 1]) for i in range(len(t))])


def by_sigma(scheduler: Scheduler, steps: int, schedule: str, rho: float = RHO, ends_zero: bool = False) -> Grid:
    """Steps of the Euler family: fractional timesteps, each ending where the next begins.

    The last ends at the checkpoint's final sigma, or `ends_zero`, in the k-diffusion scale (image + sigma * noise).
    """
    if scheduler.edm:
        return _by_edm(scheduler, scheduler.edm, steps, schedule, rho)
    spacing = schedule if schedule in names() and schedule not in SHAPES else scheduler.spacing or "linspace"
    final = 0.0 if ends_zero or scheduler.final_zero else None
    if schedule in SHAPES:
        spaced = _at(scheduler, _timesteps(scheduler, steps, spacing), spacing)
        k = _shaped(schedule, spaced[-1], spaced[0], steps, rho)
        found = _chain(scheduler, scheduler.timestep(k), k, final)
    else:
        found = _listed(scheduler, steps, schedule, lambda t: t, final)
    found[-1] = found[-1]._replace(a1=1.0, s1=found[-1].s1 / found[-1].a1)
    # diffusers starts at unit variance on "leading", and elsewhere leaves the image's share out.
    unit = (spacing if spacing in SPACINGS else scheduler.spacing) == "leading"
    return Grid(found, 1.0 if unit else found[0].s)


def by_half_step(scheduler: Scheduler, steps: int, schedule: str, rho: float = RHO, ends_low: bool = False) -> Grid:
    """Steps of the DPM-Solver family: as by_sigma, but integer timesteps, spaced as if one more step followed.

    The last ends at the checkpoint's final sigma, or where it `ends_low`, at the lowest of training.
    """
    if scheduler.edm:
        return _by_edm(scheduler, scheduler.edm, steps, schedule, rho)
    final = 0.0 if scheduler.final_zero and not ends_low else None
    if schedule in SHAPES:
        table = scheduler.sigma_table()
        k = _shaped(schedule, float(table[0]), float(table[-1]), steps, rho)
        t = scheduler.timestep(k)
        return Grid(_chain(scheduler, t.round() if schedule == "karras" else np.floor(t), k, final))
    return Grid(_listed(scheduler, steps, schedule, np.round, final, half=True))


def _by_edm(scheduler: Scheduler, edm: Edm, steps: int, schedule: str, rho: float) -> Grid:
    """Steps of checkpoints of the EDM kind. Levels are in units of the images' deviation; the last undoes that."""
    low, high, data = edm
    found = given(schedule)
    if found:
        sigmas = np.array(found[1])
    elif schedule == "ays":  # of the list what the network was trained on: it may begin higher
        listed = np.array(scheduler.ays)
        top = np.interp(-np.log(high), -np.log(listed), np.arange(len(listed)))
        sigmas = np.append(_log_linear(listed, steps, float(top)), 0.0 if scheduler.final_zero else low)
    else:
        sigmas = np.append(_shaped(schedule, low, high, steps, rho), 0.0 if scheduler.final_zero else low)
    k = sigmas / data
    chained = _chain(scheduler, scheduler.timestep(k[:-1]), k[:-1], float(k[-1]))
    chained[-1] = chained[-1]._replace(a1=data, s1=float(sigmas[-1]))
    return Grid(chained, sqrt(high**2 + 1) / sqrt(sigmas[0] ** 2 + data**2))


# ---------------------------------------------------------------------------------------------- timesteps and levels


def _listed(
    scheduler: Scheduler,
    steps: int,
    schedule: str,
    told: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    final: float | None,
    half: bool = False,
) -> list[Step]:
    """Steps of a schedule that is a list of timesteps or sigmas; the network is `told` rounded timesteps, or not."""
    found = given(schedule)
    if found and found[0] == "sigmas":
        k = np.array(found[1])
        return _chain(scheduler, told(scheduler.timestep(k[:-1])), k[:-1], float(k[-1]))
    more = half and schedule in ("leading", "linspace")
    t = _timesteps(scheduler, steps + more, schedule)[:steps]
    if schedule not in ("normal", "ays"):
        t = told(t)
    return _chain(scheduler, t.round() if schedule == "normal" else told(t), _at(scheduler, t, schedule), final)


def _timesteps(scheduler: Scheduler, steps: int, schedule: str) -> NDArray[np.float64]:
    """Timesteps, descending and perhaps fractional; the spacings as in Lin et al. 2023, table 2, and diffusers."""
    total = scheduler.timesteps
    found = given(schedule)
    if found:
        return np.array(found[1])
    if schedule == "normal":  # as in ComfyUI
        return np.linspace(total - 1.0, 0.0, steps)
    if schedule == "linspace":
        return np.linspace(0.0, total - 1.0, steps)[::-1]
    if schedule == "leading":
        return np.arange(steps, dtype=np.float64)[::-1] * (total // steps) + scheduler.offset
    if schedule == "simple":  # as in ComfyUI, down to how the stride is rounded
        return np.array([total - 1.0 - int(i * (total / steps)) for i in range(steps)])
    if schedule == "ays":
        return _aligned(scheduler, steps)
    t: NDArray[np.float64] = np.arange(total, 0, -total / steps).round()[:steps] - 1
    return t


def _aligned(scheduler: Scheduler, steps: int) -> NDArray[np.float64]:
    """Align Your Steps (Sabour et al. 2024); other numbers of steps interpolate the logarithm of sigma."""
    t = np.array(scheduler.ays, np.float64) * (scheduler.timesteps - 1) / 999
    if steps == len(t) - 1:
        return t[:-1]
    return np.asarray(scheduler.timestep(_log_linear(_at(scheduler, t, "ays"), steps)))


def _log_linear(listed: NDArray[np.float64], steps: int, first: float = 0.0) -> NDArray[np.float64]:
    """Where so many steps begin that go evenly through a list, from its place `first` to its end."""
    where = np.linspace(first, len(listed) - 1, steps + 1)[:-1]
    return np.asarray(np.exp(np.interp(where, np.arange(len(listed)), np.log(listed))))


def _at(scheduler: Scheduler, t: NDArray[np.float64], schedule: str) -> NDArray[np.float64]:
    """k at timesteps that may lie between those of training: of its logarithm for ComfyUI's "normal"."""
    table = scheduler.sigma_table()
    places = np.arange(len(table))
    if schedule == "normal":
        return np.exp(np.interp(t, places, np.log(table)))
    return np.interp(t, places, table)


def _shaped(schedule: str, low: float, high: float, steps: int, rho: float) -> NDArray[np.float64]:
    """`steps` levels from `high` to `low`; one step is `high`."""
    ramp = np.linspace(0, 1, steps)
    if schedule == "karras":
        top, bottom = high ** (1 / rho), low ** (1 / rho)
        return np.asarray((top + ramp * (bottom - top)) ** rho, np.float64)
    if schedule == "exponential":
        return np.exp(np.linspace(np.log(high), np.log(low), steps))
    return np.asarray(low + beta.ppf(1 - ramp, 0.6, 0.6) * (high - low), np.float64)  # Lee et al. 2024


def _chain(scheduler: Scheduler, t: NDArray[np.float64], k: NDArray[np.float64], final: float | None) -> list[Step]:
    """Steps from each level to the next; the last to `final`, or to the lowest of training."""
    k = np.append(k, float(scheduler.sigma_table()[0]) if final is None else final)
    a = 1 / np.sqrt(1 + k * k)
    levels = [(float(a[i]), float(k[i] * a[i])) for i in range(len(k))]
    return [Step(float(t[i]), *levels[i], *levels[i + 1]) for i in range(len(t))]


def _level(bar: float) -> tuple[float, float]:
    return float(np.sqrt(bar)), float(np.sqrt(1 - bar))
