"""Solvers whose steps use nothing of earlier steps."""

from collections.abc import Sequence
from math import floor, inf, sqrt

from .quadrature import drift, exponential
from .scheduler import Scheduler
from .steps import Level, Step, Steps
from .table import Mix, Options, Row, Table


def euler(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates Euler's method in sigma, which is also DDIM, DPM-Solver-1, DPM-Solver++(1) and DEIS of order 1."""
    return _with_noise(steps, scheduler, [0.0] * len(steps))


def ddim(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates DDIM (Song et al. 2021, eq. 12 and 16), without fresh noise unless `eta` is above 0.

    Clipping changes the image's share of the next latents only: the noise stays the one that the network predicted.
    """
    table = _with_noise(steps, scheduler, [_posterior(step, options.eta or 0.0) for step in steps])
    rows = (row._replace(clip_weight=-row.level.signal * row.mix.base) for row in table.rows)
    return table._replace(rows=tuple(rows), clip=scheduler.clip)


def ddpm(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates ancestral sampling (Ho et al. 2020, eq. 7): the posterior's mean, which is that of DDIM with eta 1.

    The variance is the posterior's too; if the checkpoint's variance_type is "fixed_large", it is the forward step's,
    except in the last step.
    """
    table = _with_noise(steps, scheduler, [_posterior(step, 1.0) for step in steps])
    if scheduler.large_variance:
        noises = [_forward(step) if step.timestep > 0 else 0.0 for step in steps]
        rows = tuple(row._replace(fresh_noise=noise) for row, noise in zip(table.rows, noises, strict=True))
        table = table._replace(rows=rows)
    return table._replace(clip=scheduler.clip)


def euler_ancestral(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates Euler to a lower level, then fresh noise up to the step's end; equal to DDPM apart from the grid."""
    eta = 1.0 if options.eta is None else options.eta
    return _with_noise(steps, scheduler, [_posterior(step, eta) for step in steps])


def _forward(step: Step) -> float:
    """Returns the standard deviation of the noise that diffusion adds between the step's end and its start."""
    return sqrt(1 - (step.start.signal / step.end.signal) ** 2)


def _posterior(step: Step, eta: float) -> float:
    """Returns `eta` times the standard deviation of the posterior q(x_end | x_start, image)."""
    _, start, end = step
    return eta * end.noise / start.noise * sqrt(max(1 - (start.signal / end.signal) ** 2, 0.0))


def _with_noise(steps: Steps, scheduler: Scheduler, noises: Sequence[float]) -> Table:
    """Returns a table of Euler steps, each to a level so much lower that its fresh noise leads to the step's end."""
    rows = []
    for (timestep, start, end), fresh in zip(steps, noises, strict=True):
        base, image = drift(start, Level(end.signal, sqrt(end.noise**2 - fresh**2)))
        rows.append(Row(timestep, start, Mix(base, (image,)), fresh_noise=fresh))
    return Table(tuple(rows), scheduler.prediction_type)


def lcm(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates latent consistency (Luo et al. 2023, algorithm 3): to the image, then fresh noise to the step's end."""
    rows = []
    for timestep, start, end in steps:
        skip, out = boundary(timestep, scheduler.timestep_scaling)
        rows.append(Row(timestep, start, Mix(end.signal * skip, (end.signal * out,)), fresh_noise=end.noise))
    return Table(tuple(rows), scheduler.prediction_type)


def boundary(timestep: float, scaling: float) -> tuple[float, float]:
    """Returns the weights of latents and image in a consistency function, (1, 0) at timestep 0 (ibid., eq. 9)."""
    sigma_data = 0.5  # whatever the standard deviation of the images is
    t = timestep * scaling
    return sigma_data**2 / (t**2 + sigma_data**2), t / sqrt(t**2 + sigma_data**2)


def tcd(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates trajectory consistency (Zheng et al. 2024, algorithm 4).

    A step goes to (1 - gamma) of the timestep at which it ends; fresh noise brings it up to its end.
    """
    gamma = 0.3 if options.gamma is None else options.gamma
    alphas_cumprod = scheduler.alphas_cumprod(exact_zero=True)
    rows = []
    for i, (timestep, start, end) in enumerate(steps):
        end_timestep = steps[i + 1].timestep if i + 1 < len(steps) else 0
        lower = Level.from_alpha_cumprod(float(alphas_cumprod[floor((1 - gamma) * end_timestep)]))
        base, image = drift(start, lower)
        scale = end.signal / lower.signal
        mix = Mix(base * scale, (image * scale,))
        rows.append(Row(timestep, start, mix, fresh_noise=sqrt(max(1 - scale**2, 0.0))))
    return Table(tuple(rows), scheduler.prediction_type)


def heun(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates Heun's method in sigma; a step that ends at zero is Euler's, so n steps are 2 n - 1 evaluations."""
    return edm(steps, scheduler, Options(order=2))


def edm(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates stochastic Heun, or Euler for order 1 (Karras et al. 2022, algorithm 2).

    As published, churn comes first and the network is called at the higher level it leads to. diffusers calls the
    network before the churn.
    """
    sigmas = [step.start.sigma * (1 + _churn(step.start.sigma, steps.total, scheduler, options)) for step in steps]
    s_noise = 1.0 if options.s_noise is None else options.s_noise
    churns = [s_noise * sqrt(sigma**2 - step.start.sigma**2) for step, sigma in zip(steps, sigmas, strict=True)]
    rows: list[Row] = []
    for i, ((timestep, start, end), sigma) in enumerate(zip(steps, sigmas, strict=True)):
        if sigma > start.sigma:
            timestep, start = float(scheduler.timestep(sigma)), Level.from_sigma(sigma)
        delta = end.sigma - sigma
        # If the next step churns, this one ends at the level after that churn, in the scale of that level.
        last = i == len(steps) - 1
        signal = end.signal if last else 1 / sqrt(1 + sigmas[i + 1] ** 2)
        fresh = 0.0 if last else signal * churns[i + 1]
        if options.order == 1 or end.noise == 0:
            rows.append(Row(timestep, start, Mix(signal / start.signal, (signal * delta,)), fresh))
            continue
        end_timestep = float(scheduler.timestep(end.sigma)) if last else steps[i + 1].timestep
        euler_mix = Mix(end.signal / start.signal, (end.signal * delta,))
        heun_mix = Mix(signal / start.signal, (signal * delta / 2, signal * delta / 2))
        rows.append(Row(timestep, start, euler_mix, ends_step=False))
        rows.append(Row(end_timestep, end, heun_mix, fresh))
    signal = rows[0].level.signal
    noise_scale = signal / steps[0].start.signal
    return Table(
        tuple(rows), scheduler.prediction_type, "noise", noise_scale=noise_scale, churn_scale=signal * churns[0]
    )


def _churn(sigma: float, num_steps: int, scheduler: Scheduler, options: Options) -> float:
    """Returns by what fraction the step that starts at `sigma` raises it: gamma_i of Karras et al."""
    s_tmin, s_tmax = options.s_tmin or 0.0, inf if options.s_tmax is None else options.s_tmax
    if not s_tmin <= sigma * scheduler.sigma_data <= s_tmax:
        return 0.0
    return min((options.s_churn or 0.0) / num_steps, sqrt(2) - 1)


def dpmpp_2s(steps: Steps, scheduler: Scheduler, options: Options) -> Table:
    """Tabulates DPM-Solver++(2S), or (3S) for order 3 (Lu et al. 2022, algorithm 1): steps in groups.

    Every step is one evaluation; the last of a group starts over from where the group began, and is of full order.
    The groups are those of the whole grid; if a run begins within a group, what is left of it is a smaller group.
    """
    grid_orders = _groups(steps.total, options.order or 2, scheduler.lower_order_final or steps[-1].end.noise == 0)
    orders = [min(order, i) for i, order in enumerate(grid_orders[steps.total - len(steps) :], 1)]
    if steps[-1].end.noise == 0:
        orders[-1] = 1
    kind = options.kind or "midpoint"
    rows = []
    for i, ((timestep, start, end), order) in enumerate(zip(steps, orders, strict=True)):
        group = [step.start for step in steps[i + 1 - order : i + 1]]
        if order == 3 and kind == "midpoint":  # the slope over the whole group; the estimate between is not used
            base, (newest, oldest) = exponential(group[0], end, [group[2], group[0]])
            mix = Mix(base, (newest, 0.0, oldest))
        else:
            mix = exponential(group[0], end, group[::-1], kind=kind)
        rows.append(Row(timestep, start, mix, ends_step=orders[i + 1 : i + 2] in ([1], [])))
    return Table(tuple(rows), scheduler.prediction_type)


def _groups(num_steps: int, order: int, lower_at_end: bool) -> list[int]:
    """Returns the order of each step: 1, 2, ... `order`, again and again; a shorter group at the end."""
    if num_steps % order or not lower_at_end:
        groups, left = divmod(num_steps, order)
        return [*range(1, order + 1)] * groups + [*range(1, left + 1)]
    last = {1: [1], 2: [1, 1], 3: [1, 2, 1]}[order]
    return [*range(1, order + 1)] * (num_steps // order - 1) + last
