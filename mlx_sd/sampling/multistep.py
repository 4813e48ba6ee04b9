"""Solvers that combine the network's outputs of several steps, and the corrector that raises any solver's order."""

from math import sqrt

import numpy as np

from .quadrature import exponential, interpolated
from .scheduler import Scheduler
from .steps import Steps
from .table import Mix, Options, Row, Table

# Linear multistep extrapolates no further than this: 20 times an error of float16 is 0.01 of the latents' deviation.
# Steps that are long by themselves, as the first from sigma 4096 of zero terminal SNR, do not count.
_LARGEST_ERROR, _LARGEST_GROWTH = 20.0, 100.0


def dpmpp_2m(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates DPM-Solver++(2M) (Lu et al. 2022, algorithm 2)."""
    orders = _orders(steps, options.order or 2, scheduler)
    return _multistep(steps, scheduler, orders, kind=options.kind or "midpoint")


def dpmpp_3m(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates DPM-Solver++(3M) as published: its quadratic term has half the weight of the exact integral."""
    orders = _orders(steps, 3, scheduler)
    return _multistep(steps, scheduler, orders, kind=options.kind or "midpoint", curvature=0.5)


def dpmpp_2m_sde(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates SDE-DPM-Solver++(2M) (Lu et al. 2022, section 5): 2M on the reverse diffusion, with its noise."""
    orders = _orders(steps, options.order or 2, scheduler)
    table = _multistep(steps, scheduler, orders, kind=options.kind or "midpoint", sde=True)
    noises = []
    for _, start, end in steps:
        decay = end.noise * start.signal / (end.signal * start.noise)  # exp(lambda at the start - lambda at the end)
        noises.append(end.noise * sqrt(max(1 - decay**2, 0.0)))
    rows = (row._replace(fresh_noise=noise) for row, noise in zip(table.rows, noises, strict=True))
    return table._replace(rows=tuple(rows))


def dpm_2m(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates multistep DPM-Solver (Lu et al. 2022a): 2M and 3M for estimates of the noise.

    Its formula divides by the last noise level, so its grid ends at the lowest of training instead of at zero.
    """
    orders = _orders(steps, options.order or 2, scheduler)
    return _multistep(steps, scheduler, orders, "noise", kind=options.kind or "midpoint", curvature=0.5)


def deis(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates DEIS in log rho (Zhang and Chen 2023, eq. 15): the exact integral of a polynomial in the noise."""
    orders = _orders(steps, options.order or 2, scheduler, always_euler_at_zero=False)
    return _multistep(steps, scheduler, orders, "noise")


def unipc(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates UniP (Zhao et al. 2023, algorithm 2); `corrected` adds UniC, which makes it UniPC."""
    highest, n = options.order or 2, len(steps)
    orders = [min(highest, i + 1, n - i if scheduler.lower_order_final else highest) for i in range(n)]
    if steps[-1].end.noise == 0:
        orders[-1] = 1
    return _multistep(steps, scheduler, orders, kind=options.kind or "bh2")


def lms(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates linear multistep, of order 4 by default: the exact integral over sigma of a polynomial in the noise.

    A step that is far longer than those before it, as the last one to sigma = 0 is in hundreds of steps, extrapolates
    with weights of thousands, by which the rounding of the network's output would grow. It is of a lower order.
    """
    rows = []
    for i, (timestep, start, end) in enumerate(steps):
        for order in range(min(options.order or 4, i + 1), 0, -1):
            offsets = [step.start.sigma - start.sigma for step in reversed(steps[i + 1 - order : i + 1])]
            powers = np.arange(1, order + 1)
            weights = interpolated(offsets, end.signal * (end.sigma - start.sigma) ** powers / powers)
            error = sum(map(abs, weights))  # of the next latents, for an error of 1 in each estimate of the noise
            if error <= _LARGEST_ERROR or error <= _LARGEST_GROWTH * abs(sum(weights)):
                break
        rows.append(Row(timestep, start, Mix(end.signal / start.signal, weights)))
    return Table(tuple(rows), scheduler.prediction_type, "noise")


def corrected(table: Table, steps: Steps, options: Options) -> Table:
    """Adds UniC (Zhao et al. 2023, algorithm 1) to a table with one row a step; the order rises by one.

    Each step is computed a second time once the estimate at its end is known.
    """
    kind = "bh1" if options.kind == "bh1" else "bh2"
    rows = [table.rows[0]._replace(ends_step=False)]
    for i in range(1, len(steps)):
        order = len(table.rows[i - 1].mix.estimates)
        nodes = [step.start for step in reversed(steps[i - order : i + 1])]
        correction = exponential(nodes[1], nodes[0], nodes, table.history, kind if order == 1 else "heun")
        rows.append(table.rows[i]._replace(ends_step=False, correction=correction))
    return table._replace(rows=tuple(rows))


def _orders(steps: Steps, highest: int, scheduler: Scheduler, always_euler_at_zero: bool = True) -> list[int]:
    """Returns each step's order: lower while the history is short, and at the end where diffusers lowers it."""
    n, few = len(steps), scheduler.lower_order_final and steps.total < 15
    orders = [min(highest, i + 1) for i in range(n)]
    if few and n > 1:
        orders[-2] = min(orders[-2], 2)
    if few or (always_euler_at_zero and (steps[-1].end.noise == 0 or scheduler.euler_at_final)):
        orders[-1] = 1
    return orders


def _multistep(
    steps: Steps,
    scheduler: Scheduler,
    orders: list[int],
    history: str = "denoised",
    kind: str = "heun",
    curvature: float = 1.0,
    sde: bool = False,
) -> Table:
    """Returns a table whose step i integrates a polynomial through the last orders[i] estimates."""
    rows = []
    for i, ((timestep, start, end), order) in enumerate(zip(steps, orders, strict=True)):
        nodes = [step.start for step in reversed(steps[i + 1 - order : i + 1])]
        rows.append(Row(timestep, start, exponential(start, end, nodes, history, kind, curvature, sde)))
    return Table(tuple(rows), scheduler.prediction_type, history)
