"""Solvers that remember what the network said in earlier steps, and the corrector that improves on any of them."""

from math import sqrt

import numpy as np

from .quadrature import exponential, interpolated
from .scheduler import Scheduler
from .schedules import Steps
from .table import Options, Row, Table


def dpmpp_2m(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2)."""
    orders = _orders(steps, options.order or 2, scheduler)
    return _multistep(steps, scheduler, orders, kind=options.kind or "midpoint")


def dpmpp_3m(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """DPM-Solver++(3M) as its authors published it: the quadratic term has half the weight of the exact integral."""
    orders = _orders(steps, 3, scheduler)
    return _multistep(steps, scheduler, orders, kind=options.kind or "midpoint", curvature=0.5)


def dpmpp_2m_sde(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, section 5): 2M on the reverse diffusion, with its noise."""
    orders = _orders(steps, options.order or 2, scheduler)
    made = _multistep(steps, scheduler, orders, kind=options.kind or "midpoint", sde=True)
    noises = [p.s1 * sqrt(max(1 - (p.s1 * p.a / (p.a1 * p.s)) ** 2, 0.0)) for p in steps]
    return made._replace(rows=tuple(row._replace(noise=n) for row, n in zip(made.rows, noises, strict=True)))


def dpm_2m(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """DPM-Solver, multistep (Lu et al. 2022a): as 2M and 3M, in the noise. It cannot end at zero, but at the least."""
    orders = _orders(steps, options.order or 2, scheduler)
    return _multistep(steps, scheduler, orders, "noise", kind=options.kind or "midpoint", curvature=0.5)


def deis(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """DEIS in log rho (Zhang and Chen 2023, eq. 15): the exact integral of a polynomial through the noise."""
    orders = _orders(steps, options.order or 2, scheduler, always_euler_at_zero=False)
    return _multistep(steps, scheduler, orders, "noise")


def unipc(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """UniP (Zhao et al. 2023, algorithm 2), which `samplers` joins with its corrector."""
    highest, n = options.order or 2, len(steps)
    orders = [min(highest, i + 1, n - i if scheduler.lower_order_final else highest) for i in range(n)]
    if steps[-1].s1 == 0:
        orders[-1] = 1
    return _multistep(steps, scheduler, orders, kind=options.kind or "bh2")


def lms(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Linear multistep of order 4 in k = s / a: the exact integral of a polynomial through the noise."""
    rows = []
    for i, p in enumerate(steps):
        k, k1 = p.s / p.a, p.s1 / p.a1
        nodes = [q.s / q.a - k for q in reversed(steps[max(i + 1 - (options.order or 4), 0) : i + 1])]
        powers = np.arange(1, len(nodes) + 1)
        weights = interpolated(nodes, p.a1 * (k1 - k) ** powers / powers)
        rows.append(Row(p.t, p.a, p.s, p.a1 / p.a, weights))
    return Table(tuple(rows), scheduler.prediction, "noise")


def _orders(steps: Steps, highest: int, scheduler: Scheduler, always_euler_at_zero: bool = True) -> list[int]:
    """The order of each step: lower while the history is short, and near the end where diffusers is."""
    n, few = len(steps), scheduler.lower_order_final and steps.total < 15
    orders = [min(highest, i + 1) for i in range(n)]
    if few and n > 1:
        orders[-2] = min(orders[-2], 2)
    if few or (always_euler_at_zero and (steps[-1].s1 == 0 or scheduler.euler_at_final)):
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
    rows = []
    for i, (p, order) in enumerate(zip(steps, orders, strict=True)):
        nodes = [(q.a, q.s) for q in reversed(steps[i + 1 - order : i + 1])]
        x, m = exponential(nodes[0], (p.a1, p.s1), nodes, history, kind, curvature, sde)
        rows.append(Row(p.t, p.a, p.s, x, m))
    return Table(tuple(rows), scheduler.prediction, history)


def corrected(made: Table, steps: Steps, options: Options) -> Table:
    """A table of one row a step, with UniC (Zhao et al. 2023, algorithm 1) after each.

    The step is done again with one more estimate, that at its end, which raises its order by one.
    """
    kind = "bh1" if options.kind == "bh1" else "bh2"
    rows = [made.rows[0]._replace(ends=False)]
    for i in range(1, len(steps)):
        order = len(made.rows[i - 1].m)
        nodes = [(q.a, q.s) for q in reversed(steps[i - order : i + 1])]
        again = exponential(nodes[1], nodes[0], nodes, made.history, kind if order == 1 else "heun")
        rows.append(made.rows[i]._replace(ends=False, again=again))
    return made._replace(rows=tuple(rows))
