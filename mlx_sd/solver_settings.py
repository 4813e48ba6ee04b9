"""The settings of a request that only some samplers and schedules take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from .setting import Range, setting

_solver_setting = partial(setting, None, group="solver", always_recorded=False)
_churn_setting = partial(_solver_setting, kind=float, metavar="S")


@dataclass(frozen=True, kw_only=True)
class SolverSettings:
    """Holds the options of samplers and schedules; None is the sampler's own default."""

    eta: float | None = _solver_setting(
        "fresh noise in ddim (default 0) and euler_ancestral (1), from 0 to 1", kind=float, aliases="ddim-eta eta-ddim"
    )
    gamma: float | None = _solver_setting("fresh noise in tcd, from 0 to 1 (default 0.3)", kind=float)
    order: int | None = _solver_setting(
        "order of the solver, 1 to 3, of lms to 4 (default 2; lms 4)", kind=int, aliases="solver-order"
    )
    kind: str | None = _solver_setting(
        "midpoint or heun, of the dpm samplers; bh2 or bh1, of unipc", aliases="solver-type"
    )
    corrector: bool | None = _solver_setting(
        "UniPC's corrector after each step of any deterministic multistep sampler (default: unipc only)", kind=bool
    )
    rho: float | None = _solver_setting(
        "how unevenly the karras schedules are spaced (default 7)", kind=float, range=Range(0.01)
    )
    s_churn: float | None = _churn_setting(
        "noise that edm adds, over all steps (default 0)", range=Range(0), aliases="sigma-churn"
    )
    s_tmin: float | None = _churn_setting(
        "the lowest sigma at which edm adds noise (default 0)", range=Range(0), aliases="sigma-tmin"
    )
    s_tmax: float | None = _churn_setting(
        "the highest sigma at which edm adds noise (default: any)", aliases="sigma-tmax"
    )
    s_noise: float | None = _churn_setting(
        "standard deviation of that noise (default 1)", range=Range(0), aliases="sigma-noise"
    )
