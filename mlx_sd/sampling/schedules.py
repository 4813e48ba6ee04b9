"""Schedules: the timesteps or sigmas that a run goes through, by name or as a list from the user.

A resolved schedule is a name, or "timesteps=999,850,...", or "sigmas=14.6,6.5,...,0", which has one number more than
there are steps.
"""

from itertools import pairwise
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.suggestions import unknown
from .scheduler import SPACINGS, Scheduler

SHAPES = ("karras", "exponential", "beta")  # of sigmas, from the highest of training down to the lowest
# What the same names mean in diffusers: in its Euler family, the range of the checkpoint's timestep_spacing instead;
# sgm_uniform in whole timesteps. A checkpoint's own config asks for these.
DIFFUSERS = tuple(f"diffusers_{name}" for name in (*SHAPES, "sgm_uniform"))
FRACTIONAL = ("normal", "sgm_uniform")  # timesteps of ComfyUI and A1111 between those of training
RHO = 7.0  # of "karras" (Karras et al. 2022, eq. 5)
LISTS = ("timesteps", "sigmas")  # what a user may list


def names() -> tuple[str, ...]:
    """Returns the names that `--schedule` and `schedule=` take."""
    return ("normal", *SHAPES, "sgm_uniform", "simple", "ays", *SPACINGS, *DIFFUSERS)


def shape_of(schedule: str) -> str | None:
    """Returns the one of SHAPES that a schedule spaces its sigmas by, over whatever range; None for the others."""
    shape = schedule.removeprefix("diffusers_")
    return shape if shape in SHAPES else None


# ---------------------------------------------------------------------------------------------- lists from the user


def resolve(text: str, scheduler: Scheduler) -> str:
    """Returns the resolved schedule for a name or a list, checked.

    Raises InputError that says what is wrong and lists the names.
    """
    if text in names():
        return text
    kind, _, values = text.partition("=")
    if kind not in LISTS:
        raise unknown("schedule", text, names(), ", or a .json file")
    try:
        numbers = [float(v) for v in values.split(",")]
    except ValueError:
        raise InputError(f"{kind} must be numbers with commas between them, not {values!r}") from None
    falling = all(p > q for p, q in pairwise(numbers)) and all(map(isfinite, numbers))
    if kind == "timesteps":
        highest = scheduler.num_train_timesteps - 1
        if not (falling and highest >= numbers[0] and numbers[-1] >= 0 and all(v == int(v) for v in numbers)):
            raise InputError(f"timesteps must be whole numbers from {highest} down to 0, each below the one before")
    elif not falling or len(numbers) < 2 or numbers[-1] < 0:
        raise InputError("sigmas must be at least two numbers, each below the one before, down to 0 or above it")
    return f"{kind}={','.join(f'{v:.17g}' for v in numbers)}"


def user_list(schedule: str) -> tuple[str, list[float]] | None:
    """Returns ("timesteps" or "sigmas", the numbers) of a resolved schedule that is a list, None for a name."""
    kind, _, values = schedule.partition("=")
    return (kind, [float(v) for v in values.split(",")]) if values else None


def step_count(schedule: str) -> int | None:
    """Returns the number of steps of a resolved schedule that is a list, None for a name, which fits any number."""
    listed = user_list(schedule)
    return None if listed is None else len(listed[1]) - (listed[0] == "sigmas")


# ---------------------------------------------------------------------------------------------- timesteps and sigmas


def timesteps(scheduler: Scheduler, num_steps: int, schedule: str) -> NDArray[np.float64]:
    """Returns the timesteps of a schedule without a shape, descending, fractional for some schedules.

    The spacings are those of Lin et al. 2023, table 2, and diffusers; "diffusers_sgm_uniform" is another name of
    "trailing".
    """
    total = scheduler.num_train_timesteps
    listed = user_list(schedule)
    if listed:
        return np.array(listed[1])
    if schedule == "normal":  # as in ComfyUI
        return np.linspace(total - 1.0, 0.0, num_steps)
    if schedule == "sgm_uniform":  # as in ComfyUI and A1111
        return np.linspace(total - 1.0, 0.0, num_steps + 1)[:-1]
    if schedule == "linspace":
        return np.linspace(0.0, total - 1.0, num_steps)[::-1]
    if schedule == "leading":
        return np.arange(num_steps, dtype=np.float64)[::-1] * (total // num_steps) + scheduler.steps_offset
    if schedule == "simple":  # as in ComfyUI, down to how the stride is rounded
        return np.array([total - 1.0 - int(i * (total / num_steps)) for i in range(num_steps)])
    if schedule == "ays":
        return _align_your_steps(scheduler, num_steps)
    trailing: NDArray[np.float64] = np.arange(total, 0, -total / num_steps).round()[:num_steps] - 1
    return trailing


def _align_your_steps(scheduler: Scheduler, num_steps: int) -> NDArray[np.float64]:
    """Returns the timesteps of Sabour et al. (2024); other numbers of steps interpolate the logarithm of sigma."""
    t = np.array(scheduler.ays, np.float64) * (scheduler.num_train_timesteps - 1) / 999
    if num_steps == len(t) - 1:
        return t[:-1]
    return np.asarray(scheduler.timestep(log_linear(sigmas_at(scheduler, t, "ays"), num_steps)))


def log_linear(sigmas: NDArray[np.float64], num_steps: int, first: float = 0.0) -> NDArray[np.float64]:
    """Returns the sigmas at which steps begin that divide a list evenly, from its index `first` to its end.

    Between two entries the logarithm of sigma is linear.
    """
    index = np.linspace(first, len(sigmas) - 1, num_steps + 1)[:-1]
    return np.asarray(np.exp(np.interp(index, np.arange(len(sigmas)), np.log(sigmas))))


def sigmas_at(scheduler: Scheduler, t: NDArray[np.float64], schedule: str) -> NDArray[np.float64]:
    """Returns sigma at timesteps that may be fractional; the schedules of FRACTIONAL interpolate its logarithm."""
    trained = scheduler.train_sigmas()
    index = np.arange(len(trained))
    if schedule in FRACTIONAL:
        return np.exp(np.interp(t, index, np.log(trained)))
    return np.interp(t, index, trained)


def shaped_sigmas(shape: str, low: float, high: float, num_steps: int, rho: float) -> NDArray[np.float64]:
    """Returns `num_steps` sigmas from `high` down to `low`, of one of SHAPES; a single step is at `high`."""
    ramp = np.linspace(0, 1, num_steps)
    if shape == "karras":  # Karras et al. 2022, eq. 5
        top, bottom = high ** (1 / rho), low ** (1 / rho)
        return np.asarray((top + ramp * (bottom - top)) ** rho, np.float64)
    if shape == "exponential":
        return np.exp(np.linspace(np.log(high), np.log(low), num_steps))
    from scipy.special import betaincinv  # here because SciPy takes long to import

    quantiles = betaincinv(0.6, 0.6, 1 - ramp)  # of the Beta(0.6, 0.6) distribution (Lee et al. 2024)
    return np.asarray(low + quantiles * (high - low), np.float64)
