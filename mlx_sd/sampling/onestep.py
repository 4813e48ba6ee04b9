"""Solvers that forget everything at the end of a step."""

from collections.abc import Sequence
from math import floor, inf, sqrt

from .quadrature import drift, exponential
from .scheduler import Scheduler
from .schedules import Step, Steps
from .table import Options, Row, Table


def euler(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Euler's method in k = s / a, which is DDIM, DPM-Solver-1, DPM-Solver++(1) and DEIS-1."""
    return _noisy(steps, scheduler, [0.0] * len(steps))


def ddim(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """DDIM (Song et al. 2021, eq. 12 and 16), deterministic unless `eta` says otherwise.

    Where estimates are clipped, the noise stays what the network says it is.
    """
    table = _noisy(steps, scheduler, [_posterior(p, options.eta or 0.0) for p in steps])
    return table._replace(rows=tuple(row._replace(cut=-row.a * row.x) for row in table.rows), clip=scheduler.clip)


def ddpm(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Ancestral sampling (Ho et al. 2020, eq. 7): the posterior's mean, which is that of DDIM with eta 1.

    Its variance is the posterior's, too, or where the checkpoint says so that of the forward step, but for the last.
    """
    table = _noisy(steps, scheduler, [_posterior(p, 1.0) for p in steps])
    if scheduler.large_variance:
        noises = [sqrt(1 - (p.a / p.a1) ** 2) if p.t > 0 else 0.0 for p in steps]
        rows = tuple(row._replace(noise=noise) for row, noise in zip(table.rows, noises, strict=True))
        table = table._replace(rows=rows)
    return table._replace(clip=scheduler.clip)


def euler_ancestral(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Euler to a lower level, then fresh noise up to the step's end; on its own grid the same as DDPM."""
    eta = 1.0 if options.eta is None else options.eta
    return _noisy(steps, scheduler, [_posterior(p, eta) for p in steps])


def _posterior(p: Step, eta: float) -> float:
    """Deviation of the noise that a step adds, eta times the posterior's."""
    return eta * p.s1 / p.s * sqrt(max(1 - (p.a / p.a1) ** 2, 0.0))


def _noisy(steps: Steps, scheduler: Scheduler, ups: Sequence[float]) -> Table:
    rows = []
    for p, up in zip(steps, ups, strict=True):
        x, m = drift((p.a, p.s), (p.a1, sqrt(p.s1**2 - up**2)))
        rows.append(Row(p.t, p.a, p.s, x, (m,), noise=up))
    return Table(tuple(rows), scheduler.prediction)


def lcm(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Latent consistency (Luo et al. 2023, algorithm 3): to the image, then fresh noise up to the step's end."""
    rows = []
    for p in steps:
        t, deviation = p.t * scheduler.timestep_scaling, 0.5  # of the data
        skip, out = deviation**2 / (t**2 + deviation**2), t / sqrt(t**2 + deviation**2)
        rows.append(Row(p.t, p.a, p.s, p.a1 * skip, (p.a1 * out,), noise=p.s1))
    return Table(tuple(rows), scheduler.prediction)


def tcd(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Trajectory consistency (Zheng et al. 2024, algorithm 4): to (1 - gamma) of the end's timestep, then noise."""
    gamma = 0.3 if options.gamma is None else options.gamma
    bar = scheduler.alphas_cumprod(exact_zero=True)
    rows = []
    for i, p in enumerate(steps):
        t1 = steps[i + 1].t if i + 1 < len(steps) else 0
        below = float(bar[floor((1 - gamma) * t1)])
        x, m = drift((p.a, p.s), (sqrt(below), sqrt(1 - below)))
        up = p.a1 / sqrt(below)
        rows.append(Row(p.t, p.a, p.s, x * up, (m * up,), noise=sqrt(max(1 - up**2, 0.0))))
    return Table(tuple(rows), scheduler.prediction)


def heun(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Heun's method in k = s / a; a step that ends at zero is Euler's, so n steps are 2 n - 1 evaluations."""
    return edm(steps, scheduler, Options(order=2))


def edm(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Stochastic Heun, or Euler where the order is 1 (Karras et al. 2022, algorithm 2).

    As published, the network is asked after the churn, at the level it leads to. diffusers asks it before.
    """
    levels = [(p.s / p.a) * (1 + _churn(p.s / p.a, steps.total, scheduler, options)) for p in steps]
    deviation = 1.0 if options.s_noise is None else options.s_noise
    churns = [deviation * sqrt(k**2 - (p.s / p.a) ** 2) for p, k in zip(steps, levels, strict=True)]
    rows: list[Row] = []
    for i, (p, k) in enumerate(zip(steps, levels, strict=True)):
        churned = k > p.s / p.a
        a = 1 / sqrt(1 + k * k) if churned else p.a
        s = k * a if churned else p.s
        t = float(scheduler.timestep(k)) if churned else p.t
        dk = p.s1 / p.a1 - k
        # Where the next step churns, this one ends at its level, in the scale of that level.
        last = i == len(steps) - 1
        scale = p.a1 if last else 1 / sqrt(1 + levels[i + 1] ** 2)
        noise = 0.0 if last else scale * churns[i + 1]
        if options.order == 1 or p.s1 == 0:
            rows.append(Row(t, a, s, scale / a, (scale * dk,), noise))
            continue
        t1 = float(scheduler.timestep(p.s1 / p.a1)) if last else steps[i + 1].t
        rows.append(Row(t, a, s, p.a1 / a, (p.a1 * dk,), ends=False))
        rows.append(Row(t1, p.a1, p.s1, scale / a, (scale * dk / 2, scale * dk / 2), noise))
    a = rows[0].a
    return Table(tuple(rows), scheduler.prediction, "noise", start=a / steps[0].a, churn=a * churns[0])


def _churn(k: float, steps: int, scheduler: Scheduler, options: Options) -> float:
    sigma = k * scheduler.deviation
    within = (options.s_tmin or 0.0) <= sigma <= (inf if options.s_tmax is None else options.s_tmax)
    return min((options.s_churn or 0.0) / steps, sqrt(2) - 1) if within else 0.0


def dpmpp_2s(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """DPM-Solver++(2S), or (3S) where the order is 3 (Lu et al. 2022, algorithm 1): steps in groups.

    Every step is one evaluation; the last of a group starts over from where the group began, and is of full order.
    The groups are those of the whole grid; of one that the run starts within, the rest is a smaller group.
    """
    whole = _groups(steps.total, options.order or 2, scheduler.lower_order_final or steps[-1].s1 == 0)
    orders = [min(order, i) for i, order in enumerate(whole[steps.total - len(steps) :], 1)]
    if steps[-1].s1 == 0:
        orders[-1] = 1
    rows = []
    for i, (p, order) in enumerate(zip(steps, orders, strict=True)):
        group = [(q.a, q.s) for q in steps[i + 1 - order : i + 1]]
        kind = options.kind or "midpoint"
        if order == 3 and kind == "midpoint":  # the slope over the whole group; what lies between is not used
            x, (newest, oldest) = exponential(group[0], (p.a1, p.s1), [group[2], group[0]])
            m: tuple[float, ...] = (newest, 0.0, oldest)
        else:
            x, m = exponential(group[0], (p.a1, p.s1), group[::-1], kind=kind)
        rows.append(Row(p.t, p.a, p.s, x, m, ends=orders[i + 1 : i + 2] in ([1], [])))
    return Table(tuple(rows), scheduler.prediction)


def _groups(steps: int, order: int, lower_at_end: bool) -> list[int]:
    """The order of each step: 1, 2, ... again and again, with what is left over at the end."""
    if steps % order or not lower_at_end:
        whole, left = divmod(steps, order)
        return [*range(1, order + 1)] * whole + [*range(1, left + 1)]
    last = {1: [1], 2: [1, 1], 3: [1, 2, 1]}[order]
    return [*range(1, order + 1)] * (steps // order - 1) + last
