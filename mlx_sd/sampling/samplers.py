"""The table of samplers, and the choice of a sampler, a schedule and options for a checkpoint.

A sampler is a solver, which turns steps into rows of numbers (see table.py), and a grid, which turns a schedule into
steps. All weights are float64 numbers known before the first evaluation; one loop (loop.py) runs every table.

A new sampler is one function from steps to rows, in onestep.py or multistep.py, and one line in SAMPLERS. If the line
names an order of convergence, the tests measure it.

Samplers that choose their steps while they run, such as k-diffusion's dpm_adaptive, cannot be tables: their rows depend
on the network's output. One of them would be a second generator beside `loop.evaluate`, with its arguments and yields.

DNDM (Chen et al. 2023, arXiv 2312.09193) is not here either: it draws in advance when each token of a discrete
diffusion changes, and calls the network only then. Latents here are continuous and change at every time; what
corresponds to it is DDIM.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import partial
from itertools import pairwise
from math import inf
from typing import Any

from ..core.errors import InputError
from ..core.suggestions import unknown
from . import grids, multistep, onestep, plms, schedules
from .scheduler import Scheduler
from .steps import Grid, Steps
from .table import Options, Table


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included."""

    low: float
    high: float = inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} or more" if self.high == inf else f"from {self.low:g} to {self.high:g}"


class Choices(tuple[Any, ...]):
    """The values that an option may have."""

    def __new__(cls, *values: Any) -> "Choices":
        """Returns a tuple of `values`."""
        return super().__new__(cls, values)

    def __str__(self) -> str:
        return " or ".join(map(str, self))


class Corrector(Enum):
    """Whether UniC corrects a sampler's steps."""

    NEVER = "never"
    ON_REQUEST = "on request"
    BY_DEFAULT = "by default"


@dataclass(frozen=True)
class Sampler:
    """A solver, the grid of steps it is defined on, the schedules of that grid and the options of the solver."""

    solver: Callable[[Steps, Scheduler, Options], Table]
    grid: Callable[[Scheduler, int, str, float], Grid]  # of a scheduler, a number of steps, a schedule and rho
    schedules: tuple[str, ...]
    default_schedule: str  # if neither the user nor the checkpoint names one
    takes: Mapping[str, Range | Choices] = field(default_factory=dict)  # option -> its values
    corrector: Corrector = Corrector.NEVER
    # Of convergence to the solution of the probability flow, as measured with the default options: in n steps the error
    # falls as n^-order. None with fresh noise, which follows another process, and where no smooth grid shows an order.
    order: int | None = None

    def corrects(self, options: Options) -> bool:
        """Returns whether UniC is added to the solver's table."""
        if options.corrector is None:
            return self.corrector is Corrector.BY_DEFAULT
        return options.corrector


# Schedules: all of them, for solvers in sigma or lambda; and those that list timesteps, for solvers that look levels up
# by whole timesteps, which the shaped schedules (karras, exponential) do not have.
_ANY = (*schedules.names(), *schedules.LISTS)
_INDEXED = tuple(name for name in (*schedules.names(), "timesteps") if not schedules.shape_of(name))
_EVEN = ("sgm_uniform", "leading", "linspace", "trailing", "diffusers_sgm_uniform")
_DISTILLED = ("sgm_uniform", "trailing", "timesteps", "diffusers_sgm_uniform")
# For checkpoints trained on sigmas, where diffusers' names mean the same as ours.
_EDM = ("karras", "exponential", "ays", "sigmas", "diffusers_karras", "diffusers_exponential")

_UNIT, _POSITIVE = Range(0.0, 1.0), Range(0.0)
_TWO, _THREE, _KINDS = Choices(1, 2), Choices(1, 2, 3), Choices("midpoint", "heun")
_CHURN = dict.fromkeys(("s_churn", "s_tmin", "s_tmax", "s_noise"), _POSITIVE)

# Grids whose last step always ends at sigma = 0, as in k-diffusion, whatever the checkpoint says; and never there, for
# solvers that integrate the noise over lambda = log(signal / noise), which is infinite at sigma = 0.
_to_zero = partial(grids.k_diffusion, always_to_zero=True)
_not_to_zero = partial(grids.dpm_solver, never_to_zero=True)
_ddim_to_first = partial(grids.ddim, alpha_to_one=False)
_distilled_to_first = partial(grids.distilled, alpha_to_one=False)

_ON_REQUEST, _BY_DEFAULT = Corrector.ON_REQUEST, Corrector.BY_DEFAULT

SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(onestep.euler, grids.k_diffusion, _ANY, "linspace", {}, _ON_REQUEST, order=1),
    "euler_ancestral": Sampler(onestep.euler_ancestral, _to_zero, _ANY, "linspace", {"eta": _UNIT}),
    "heun": Sampler(onestep.heun, _to_zero, _ANY, "linspace", order=2),
    "lms": Sampler(multistep.lms, _to_zero, _ANY, "linspace", {"order": Choices(1, 2, 3, 4)}, _ON_REQUEST, order=4),
    "ddim": Sampler(onestep.ddim, grids.ddim, _INDEXED, "leading", {"eta": _UNIT}, _ON_REQUEST, order=1),
    "ddpm": Sampler(onestep.ddpm, grids.ddpm, _INDEXED, "leading"),
    "plms": Sampler(plms.plms, _ddim_to_first, _EVEN, "leading"),
    "dpmpp_2m": Sampler(
        multistep.dpmpp_2m, grids.dpm_solver, _ANY, "linspace", {"order": _TWO, "kind": _KINDS}, _ON_REQUEST, order=2
    ),
    "dpmpp_2m_sde": Sampler(
        multistep.dpmpp_2m_sde, grids.dpm_solver, _ANY, "linspace", {"order": _TWO, "kind": _KINDS}
    ),
    "dpmpp_3m": Sampler(multistep.dpmpp_3m, grids.dpm_solver, _ANY, "linspace", {"kind": _KINDS}, _ON_REQUEST, order=2),
    "dpmpp_2s": Sampler(
        onestep.dpmpp_2s, grids.dpm_solver, _ANY, "linspace", {"order": _THREE, "kind": _KINDS}, order=2
    ),
    "dpm_2m": Sampler(
        multistep.dpm_2m, _not_to_zero, _ANY, "linspace", {"order": _THREE, "kind": _KINDS}, _ON_REQUEST, order=2
    ),
    "deis": Sampler(multistep.deis, _not_to_zero, _ANY, "linspace", {"order": _THREE}, _ON_REQUEST, order=2),
    "unipc": Sampler(
        multistep.unipc,
        grids.dpm_solver,
        _ANY,
        "linspace",
        {"order": _THREE, "kind": Choices("bh2", "bh1")},
        _BY_DEFAULT,
        order=3,
    ),
    "edm": Sampler(onestep.edm, _to_zero, _ANY, "karras", {"order": _TWO, **_CHURN}, order=2),
    "lcm": Sampler(onestep.lcm, grids.distilled, _DISTILLED, "trailing"),
    "tcd": Sampler(onestep.tcd, _distilled_to_first, _DISTILLED, "trailing", {"gamma": _UNIT}),
}


def names() -> tuple[str, ...]:
    """Returns the names that `--sampler` and `sampler=` take."""
    return tuple(SAMPLERS)


def choose(
    scheduler: Scheduler, sampler: str | None = None, schedule: str | None = None, options: Options | None = None
) -> tuple[str, str, Options]:
    """Returns the sampler, resolved schedule and options of a run: the user's, completed from the checkpoint's.

    The options of a checkpoint hold for the sampler of that checkpoint. Raises InputError for an unknown name, a
    schedule that the sampler does not take, an option out of range, or a checkpoint whose sampler is not available.
    """
    if sampler is None:
        if scheduler.sampler is None:
            raise InputError(f"{scheduler.problem}; choose a sampler: {', '.join(names())}")
        sampler = scheduler.sampler
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, names())
    possible = SAMPLERS[sampler].schedules
    if scheduler.edm:
        possible = tuple(name for name in _EDM if name in possible)
        if "sigmas" not in possible:
            raise InputError(f"{sampler} needs timesteps, which this checkpoint does not know; use euler or dpmpp_2m")
    if schedule is None:
        shaped = scheduler.sigma_schedule if scheduler.edm else f"diffusers_{scheduler.sigma_schedule}"
        defaults = (shaped, scheduler.timestep_spacing, SAMPLERS[sampler].default_schedule, *possible)
        schedule = next(name for name in defaults if name in possible)
    schedule = schedules.resolve(schedule, scheduler)
    name = schedule.partition("=")[0]
    if name not in possible:
        raise InputError(f"{sampler} does not go with {name}; it takes {', '.join(possible)}")
    requested = {option: value for option, value in asdict(options or Options()).items() if value is not None}
    for option, value in requested.items():
        _check_option(sampler, name, option, value)
    if requested.get("eta") and requested.get("corrector"):
        raise InputError("the corrector does a step again without its noise; leave out --eta or --corrector")
    defaults_of_checkpoint = scheduler.options if sampler == scheduler.sampler else Options()
    if schedules.shape_of(name) != "karras":
        defaults_of_checkpoint = replace(defaults_of_checkpoint, rho=None)
    return sampler, schedule, replace(defaults_of_checkpoint, **requested)


def _check_option(sampler: str, schedule: str, option: str, value: Any) -> None:
    """Raises InputError for an option that the sampler does not take, or not with this value."""
    method = SAMPLERS[sampler]
    if option == "rho":
        if schedules.shape_of(schedule) != "karras":
            raise InputError(f"rho is of the karras schedule, not of {schedule}")
        if not 0 < value < inf:
            raise InputError(f"rho must be above 0, not {value}")
    elif option == "corrector":
        if value and method.corrector is Corrector.NEVER:
            able = [name for name, other in SAMPLERS.items() if other.corrector is not Corrector.NEVER]
            raise InputError(f"{sampler} takes no corrector; {', '.join(able)} do")
    elif option not in method.takes:
        able = [name for name, other in SAMPLERS.items() if option in other.takes]
        raise InputError(f"{sampler} takes no {option}; {', '.join(able)} {'do' if len(able) > 1 else 'does'}")
    elif value not in method.takes[option]:
        of_sampler = f" of {sampler}" if isinstance(method.takes[option], Choices) else ""
        raise InputError(f"{option}{of_sampler} must be {method.takes[option]}, not {value}")


def table(
    scheduler: Scheduler, sampler: str, schedule: str, options: Options, num_steps: int, begin: int | None = None
) -> Table:
    """Returns the rows of a run of `num_steps` steps; sampler, schedule and options as `choose` returns them.

    The run starts from noise, or with `begin` midway: it leaves out the first `begin` steps and starts from an image
    with the noise of the level there; a multistep method then starts with no history. The `strength` of diffusers is
    begin = num_steps - int(num_steps * strength). Raises InputError for `num_steps` or `begin` out of range, and for a
    level at which the network's output would say nothing.
    """
    if not 1 <= num_steps <= scheduler.num_train_timesteps:
        raise InputError(f"steps must be from 1 to {scheduler.num_train_timesteps}, not {num_steps}")
    if begin is not None and not 0 <= begin < num_steps:
        raise InputError(
            f"the step to begin at must be from 0 to {num_steps - 1} where there are {num_steps}, not {begin}"
        )
    method = SAMPLERS[sampler]
    grid = method.grid(scheduler, num_steps, schedule, options.rho or schedules.RHO)
    if any(step.start == following.start for step, following in pairwise(grid.steps)):
        raise InputError(f"{num_steps} steps are too many for {sampler} on {schedule}: some would coincide")
    steps = Steps(grid.steps[begin:], total=len(grid.steps))
    first = steps[0].start
    if scheduler.prediction_type == "epsilon" and first.signal == 0:
        raise InputError(
            f"{sampler} starts at zero signal here (rescale_betas_zero_snr), where epsilon says nothing about the "
            "image; choose another sampler or a v-prediction checkpoint"
        )
    rows = method.solver(steps, scheduler, options)
    if method.corrects(options):
        if first.signal == 0:
            raise InputError("the corrector cannot start at zero signal (rescale_betas_zero_snr); use it with euler")
        rows = multistep.corrected(rows, steps, options)
    rows = rows._replace(sigma_data=scheduler.sigma_data)
    if begin is None:
        return rows._replace(noise_scale=rows.noise_scale * grid.noise_scale)
    image_scale = rows.noise_scale * first.signal / rows.sigma_data
    return rows._replace(noise_scale=rows.noise_scale * first.noise, image_scale=image_scale)
