"""Every sampler has the order it claims, on a flow whose solution is known in closed form."""

import itertools
import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.core.errors import InputError
from mlx_sd.sampling import grids, loop, multistep, samplers, schedules
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.steps import Level, Step, Steps
from mlx_sd.sampling.table import Options

# Samplers on the grids of DDIM, whose steps may end elsewhere than the next begins, and of distilled networks.
ON_DDIM_GRID, DISTILLED = (
    [name for name, sampler in samplers.SAMPLERS.items() if getattr(sampler.grid, "func", sampler.grid) is grid]
    for grid in (grids.ddim, grids.distilled)
)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
DEVIATION = 0.5  # images ~ N(0, DEVIATION^2)


def _scheduler(**fields):
    return Scheduler.from_hf({"_class_name": "DDIMScheduler", "clip_sample": False, **SD, **fields})


def _smooth(num_steps: int) -> Steps:
    """A grid that refines evenly in lambda, from 4 sigma down to 0.2.

    Its first steps are so short that what a multistep method loses at its start does not show.
    """
    low, high = math.log(4), math.log(0.2)
    h = (low - high) / num_steps
    sigmas = np.exp([low, low - h**2, low - h**1.5, *np.linspace(low - h, high, num_steps)])
    levels = [Level.from_sigma(float(sigma)) for sigma in sigmas]
    return Steps(Step(float(i), levels[i], levels[i + 1]) for i in range(len(sigmas) - 1))


def _posterior_mean(x, row, c=DEVIATION):
    signal, noise = row.level
    return signal * c * c * x / (signal**2 * c * c + noise**2)


def _final(table, x, image=_posterior_mean, normal=None):
    """Runs a table in float64, numbers or arrays, with what a perfect network says of images ~ N(0, c^2)."""
    x = x * table.noise_scale + (table.churn_scale * normal() if table.churn_scale else 0)
    base, history = x, []
    for row in table.rows:
        estimate = image(x, row)
        noise = (x - row.level.signal * estimate) / row.level.noise
        history.insert(0, estimate if table.history == "denoised" else noise)
        if row.correction:
            base = _combination(row.correction, base, history)
        x = _combination(row.mix, base, history)
        x = x + (row.fresh_noise * normal() if row.fresh_noise else 0)
        base = x if row.ends_step else base
    return x


def _combination(mix, base, history):
    return mix.base * base + sum(w * h for w, h in zip(mix.estimates, history, strict=False))


def _variance(level, c=DEVIATION):
    return level.signal**2 * c**2 + level.noise**2


def _exact(steps: Steps) -> float:
    """The probability flow keeps every quantile: x scales with its marginal's deviation."""
    return math.sqrt(_variance(steps[-1].end) / _variance(steps[0].start))


def _error(name, steps, scheduler, options):
    method = samplers.SAMPLERS[name]
    table = method.solver(steps, scheduler, options)
    if method.corrects(options):
        table = multistep.corrected(table, steps, options)
    return abs(_final(table, 1 / table.noise_scale) - _exact(steps))


# The order that each sampler's line names, and those of options. DPM-Solver++(3M) gives its quadratic term half the
# weight that order 3 needs, as do DPM-Solver-3 and (3S) "heun" in their ways; each corrector adds one order.
ORDERS = [
    *((name, sampler.order, {}) for name, sampler in samplers.SAMPLERS.items() if sampler.order),
    ("edm", 1, {"order": 1}),
    *(("lms", k, {"order": k}) for k in (1, 2, 3)),
    *(("deis", k, {"order": k}) for k in (1, 3)),
    ("dpm_2m", 1, {"order": 1}),
    *((name, 2, {"kind": "heun"}) for name in ("dpmpp_2m", "dpm_2m", "dpmpp_2s")),
    *(("dpm_2m", 2, {"order": 3}), ("dpmpp_2s", 3, {"order": 3})),
    *(("unipc", k, {"order": k, "corrector": False, "kind": kind}) for k in (1, 2, 3) for kind in ("bh1", "bh2")),
    *(("unipc", k + 1, {"order": k, "kind": kind}) for k in (1, 2, 3) for kind in ("bh1", "bh2")),
    *((name, 2, {"corrector": True}) for name in ("euler", "ddim")),
    *((name, 3, {"corrector": True}) for name in ("dpmpp_2m", "dpm_2m", "deis")),
]


@pytest.mark.parametrize(("name", "order", "options"), ORDERS)
def test_observed_order_is_the_claimed_order(name, order, options):
    scheduler = _scheduler(lower_order_final=False)
    errors = [_error(name, _smooth(n), scheduler, Options(**options)) for n in (96, 192, 384)]
    observed = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert observed[-1] == pytest.approx(order, abs=0.1), observed


def test_every_sampler_names_its_order_unless_it_adds_fresh_noise():
    """PLMS is defined on whole timesteps, where its order does not show; the next test is about it."""
    for name, sampler in samplers.SAMPLERS.items():
        table = samplers.table(_scheduler(), name, sampler.default_schedule, Options(), 10)
        noisy = any(row.fresh_noise for row in table.rows)
        assert (sampler.order is None) == (noisy or name == "plms"), name


@pytest.mark.parametrize("start", [True, False])
def test_plms_is_of_higher_order_than_euler_on_its_own_grid(start):
    """Its Heun start bounds it by order 2; on the training grid it must beat DDIM by far."""
    scheduler = _scheduler(set_alpha_to_one=False, steps_offset=1, skip_prk_steps=start)
    errors = {}
    for name in ("ddim", "plms"):
        steps = Steps(samplers.SAMPLERS[name].grid(scheduler, 100, "leading", 7.0).steps)
        errors[name] = _error(name, steps, scheduler, Options())
    assert errors["plms"] < errors["ddim"] / 20


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("ddim", {"eta": eta}) for eta in (0.5, 1.0)),
        *(("euler_ancestral", {"eta": eta}) for eta in (0.3, 1.0)),
        *(("dpmpp_2m_sde", options) for options in ({}, {"kind": "heun"}, {"order": 1})),
        ("ddpm", {}),
        *(("edm", {"order": order, "s_churn": 10.0, "s_tmin": 0.4}) for order in (1, 2)),
    ],
)
def test_fresh_noise_restores_the_exact_variance(name, options):
    """With the true denoiser, the latents' variance at the end is that of the marginal there."""
    steps = _smooth(1500)
    table = samplers.SAMPLERS[name].solver(steps, _scheduler(lower_order_final=False), Options(**options))
    sources = itertools.count(1)  # x is a combination of independent noises: the start's, and each that is added

    def normal():
        unit = np.zeros(1 + len(table.rows) + 1)
        unit[next(sources)] = 1
        return unit

    x = np.zeros(1 + len(table.rows) + 1)
    x[0] = math.sqrt(_variance(steps[0].start))
    variance = np.sum(_final(table, x, normal=normal) ** 2)
    assert next(sources) > 300
    assert variance == pytest.approx(_variance(steps[-1].end), rel=3e-3)


@pytest.mark.parametrize(("name", "options"), [("lcm", {}), *(("tcd", {"gamma": g}) for g in (0.0, 0.3, 1.0))])
def test_a_perfect_distillation_has_the_exact_variance_in_few_steps(name, options):
    """What LCM and TCD networks learn is the end of the flow; with it every step has its marginal's variance."""
    scheduler = _scheduler()
    steps = Steps(samplers.SAMPLERS[name].grid(scheduler, 4, "trailing", 7.0).steps)
    table = samplers.SAMPLERS[name].solver(steps, scheduler, Options(**options))
    variance = _variance(steps[0].start)
    for row, step in zip(table.rows, steps, strict=True):
        base, (weight,) = row.mix
        if name == "lcm":
            gain = DEVIATION / math.sqrt(_variance(row.level))
        else:  # to where the fresh noise begins: the image that brings the flow there
            reached = math.sqrt(1 - row.fresh_noise**2)
            signal = step.end.signal / reached
            lower = Level(signal, math.sqrt(1 - signal**2))
            gain = (reached * math.sqrt(_variance(lower) / _variance(row.level)) - base) / weight
        variance = (base + weight * gain) ** 2 * variance + row.fresh_noise**2
        assert variance == pytest.approx(_variance(step.end), rel=1e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_churn_is_as_karras_et_al_published_it(order):
    """Algorithm 2 written out, with a network that is neither linear nor blind to its level."""
    draws = np.random.RandomState(0).standard_normal((40, 5))
    options = Options(order=order, s_churn=8.0, s_tmin=0.05, s_tmax=10.0, s_noise=1.003)
    scheduler = _scheduler()
    table = samplers.table(scheduler, "edm", "karras", options, 12)
    steps = grids.k_diffusion(scheduler, 12, "karras").steps
    t = [step.start.sigma for step in steps] + [0.0]

    def image(y, sigma):
        return np.tanh(y / np.sqrt(sigma**2 + 1) + np.log(sigma))

    noise = iter(draws)
    y = next(noise) * t[0] / np.sqrt(t[0] ** 2 + 1) * np.sqrt(t[0] ** 2 + 1)
    for i in range(12):
        gamma = min(8.0 / 12, math.sqrt(2) - 1) if 0.05 <= t[i] <= 10.0 else 0.0
        hat = t[i] * (1 + gamma)
        if gamma:
            y = y + math.sqrt(hat**2 - t[i] ** 2) * 1.003 * next(noise)
        d = (y - image(y, hat)) / hat
        after = y + (t[i + 1] - hat) * d
        if order == 2 and t[i + 1]:
            after = y + (t[i + 1] - hat) * (d + (after - image(after, t[i + 1])) / t[i + 1]) / 2
        y = after

    ours = iter(draws)
    final = _final(table, next(ours), lambda x, row: image(x / row.level.signal, row.level.sigma), lambda: next(ours))
    assert np.allclose(final, y, rtol=1e-6)


@pytest.mark.parametrize("name", samplers.names())
def test_a_perfect_denoiser_reaches_the_image_on_every_schedule(name):
    """If every estimate is the image, so is the result, wherever steps begin where the last one ended, and the first.

    DDIM and PLMS step T // n down and begin the next step elsewhere on uneven spacings, as diffusers does.
    """
    image = mx.array(np.random.RandomState(0).standard_normal((1, 4, 4, 2)).astype(np.float32))
    scheduler = _scheduler(set_alpha_to_one=True)
    for spacing in _named(name):
        for steps, begin in ((1, None), (2, None), (7, None), (30, None), (3, 1), (7, 3), (30, 11)):
            table = samplers.table(scheduler, name, spacing, Options(), steps, begin)
            grid = samplers.SAMPLERS[name].grid(scheduler, steps, spacing, 7.0).steps
            if any(p.end.signal != q.start.signal for p, q in itertools.pairwise(grid)):
                assert name in ON_DDIM_GRID and spacing != "leading"
                continue
            rows = iter(table.rows)

            def predict(x, t, rows=rows):  # the epsilon that says: this is the image
                row = next(rows)
                return (x - row.level.signal * image) / row.level.noise

            noise = mx.array(np.random.RandomState(1).standard_normal(image.shape).astype(np.float32))
            other = None if begin is None else image + 1
            final = loop.run(table, predict, noise, lambda: mx.zeros_like(image), image=other)
            left = 5 * grid[-1].end.noise  # of the noise, where the last level is not zero
            assert mx.abs(final - grid[-1].end.signal * image).max().item() < 1e-4 + left, (spacing, steps)


def _named(sampler):
    return [s for s in samplers.SAMPLERS[sampler].schedules if s in schedules.names()]


@pytest.mark.parametrize("name", samplers.names())
@pytest.mark.parametrize("steps", [1, 2, 20, 50])
def test_rows_go_down_in_noise_and_within_the_training_range(name, steps):
    scheduler = _scheduler(steps_offset=1)
    for spacing in _named(name):
        table = samplers.table(scheduler, name, spacing, Options(), steps)
        rows, remaining = table.rows, iter(table.rows)
        grid = samplers.SAMPLERS[name].grid(scheduler, steps, spacing, 7.0).steps
        assert all(any(row.level == step.start for row in remaining) for step in grid)  # each begins with an evaluation
        assert len(_evaluations(table, steps)) == steps
        assert all(p.level.noise >= q.level.noise for p, q in itertools.pairwise(rows))
        assert all(0 <= row.timestep <= 999 for row in rows)
        assert all(math.isclose(row.level.signal**2 + row.level.noise**2, 1) for row in rows)


def _evaluations(table, steps):
    """How many evaluations each step has; where several steps end together (DPM-Solver++(2S)), one each."""
    ends = [i + 1 for i, row in enumerate(table.rows) if row.ends_step]
    return (
        [end - begin for begin, end in itertools.pairwise([0, *ends])] if len(ends) == steps else [1] * len(table.rows)
    )


def _memory(table):
    """How many rows a run needs until its history reaches as far back as the table ever looks; 0 without memory."""
    reach, first = 0, 0  # evaluations before the step; the first row of the step
    for i, row in enumerate(table.rows):
        if row.correction:  # of the step before, with the estimate at its end
            reach = max(reach, len(row.correction.estimates) - (i - first + 1))
            first = i
        reach = max(reach, len(row.mix.estimates) - (i - first + 1))
        if row.ends_step:
            first = i + 1
    return reach + 1 if reach or any(row.correction for row in table.rows) else 0


MIDWAY = [
    *((name, {}) for name in samplers.names()),
    *(("edm", {"order": order, "s_churn": 2.0, "s_tmin": 0.4}) for order in (1, 2)),
    *(("euler_ancestral", {"eta": 0.3}), ("ddim", {"eta": 1.0}), ("ddim", {"corrector": True}), ("lms", {"order": 2})),
    *((name, {"order": 3}) for name in ("dpmpp_2s", "dpm_2m", "deis", "unipc")),
]


@pytest.mark.parametrize(("name", "options"), MIDWAY)
def test_midway_the_rows_are_the_tail_of_the_whole_run_once_the_memory_is_full(name, options):
    """So what depends on the number of steps, churn, stride, groups and lower orders at the end, is the whole grid's.

    Methods without memory have the very tail. The groups of DPM-Solver++(2S) begin anew within a cut one.
    """
    for spacing, (steps, begin) in itertools.product(_named(name), ((10, 0), (10, 3), (14, 4), (20, 12), (20, 19))):
        resolved = samplers.choose(_scheduler(), name, spacing, Options(**options))
        complete = samplers.table(_scheduler(), *resolved, steps)
        tail = samplers.table(_scheduler(), *resolved, steps, begin)
        if begin == 0:
            assert tail.rows == complete.rows and tail.churn_scale == complete.churn_scale
            continue
        evaluations = _evaluations(tail, steps - begin)
        assert len(evaluations) == steps - begin and sum(evaluations) == len(tail.rows)
        assert evaluations[1:] == _evaluations(complete, steps)[begin + 1 :]  # the first may start a multistep method
        memory = options.get("order", 2) if name == "dpmpp_2s" else _memory(complete)
        rows = tail.rows[memory:]
        assert rows == complete.rows[len(complete.rows) - len(rows) :], (spacing, steps, begin)


@pytest.mark.parametrize(("name", "options"), MIDWAY)
def test_midway_the_first_latent_has_the_exact_variance_of_its_level(name, options):
    """Images ~ N(0, c^2), weighed, with the noise and the churn, are the marginal that the network is asked about."""
    scheduler = _scheduler()
    cases = [(scheduler, spacing, 1.0) for spacing in _named(name)]
    if name in ("euler", "edm", "dpmpp_2m"):
        cases += [
            (Scheduler.from_hf({"_class_name": "EDMEulerScheduler", "sigma_data": 0.7}), spacing, 0.7)
            for spacing in ("karras", "ays")
        ]
    for (model, spacing, unit), begin in itertools.product(cases, (0, 3, 9)):
        resolved = samplers.choose(model, name, spacing, Options(**options))
        table = samplers.table(model, *resolved, 10, begin)
        row = table.rows[0]
        variance = (table.image_scale * unit * DEVIATION) ** 2 + table.noise_scale**2 + table.churn_scale**2
        assert variance == pytest.approx(_variance(row.level), rel=1e-9), (spacing, begin)
        if table.churn_scale == 0:
            assert (table.image_scale * unit, table.noise_scale) == pytest.approx(row.level, rel=1e-9)


@pytest.mark.parametrize(("name", "options"), [pair for pair in MIDWAY if pair[0] not in DISTILLED])
def test_midway_from_the_exact_marginal_it_ends_with_the_exact_marginal(name, options):
    """With the true denoiser, in many small steps; LCM's and TCD's networks are no denoisers."""
    scheduler = _scheduler(set_alpha_to_one=False, steps_offset=1)
    # In steps of one timestep from t = 200, or on a schedule that is as fine as one likes.
    spacing, steps, begin = ("leading", 999, 799) if "karras" not in _named(name) else ("karras", 1000, 500)
    table = samplers.table(scheduler, *samplers.choose(scheduler, name, spacing, Options(**options)), steps, begin)
    end = samplers.SAMPLERS[name].grid(scheduler, steps, spacing, 7.0).steps[-1]
    sources = itertools.count(2)  # of the image and of the first noise are 0 and 1

    def unit(i):
        return np.eye(len(table.rows) + 4)[i]

    x = unit(0) * table.image_scale * DEVIATION + unit(1) * table.noise_scale
    variance = np.sum(_final(table._replace(noise_scale=1.0), x, normal=lambda: unit(next(sources))) ** 2)
    assert variance == pytest.approx(_variance(end.end), rel=2.5e-2)


@pytest.mark.parametrize("name", ["euler", "ddim", "heun", "edm"])
def test_midway_a_method_without_memory_ends_where_the_whole_run_ends(name):
    """From what the whole run held there, with a network that is neither linear nor blind to its level."""
    scheduler, image, begin = _scheduler(), np.random.RandomState(0).standard_normal(5), 8
    latents = []

    def network(x, row):
        latents.append((row.timestep, x))
        return np.tanh(x / row.level.signal + row.timestep / 700)

    complete = samplers.table(scheduler, name, "linspace", Options(), 20)
    final = _final(complete, image, network)
    tail = samplers.table(scheduler, name, "linspace", Options(), 20, begin)
    # A method of two evaluations a step is at the start of a step the second time it is told of a timestep.
    x = [x for t, x in latents if t == tail.rows[0].timestep][-1]
    assert np.array_equal(_final(tail._replace(noise_scale=1.0), x, network), final)


def test_midway_the_network_first_sees_the_image_and_the_noise_as_the_table_weighs_them():
    table = samplers.table(_scheduler(), "dpmpp_2m", "karras", Options(), 10, 4)
    image, noise = (mx.array(np.random.RandomState(i).standard_normal((1 + i, 4, 4, 2))) for i in (0, 1))
    seen = []

    def predict(x, t):
        seen.append(x)
        return x

    zeros = mx.zeros_like(noise)
    loop.run(table, predict, noise, lambda: zeros, image=image)
    assert mx.allclose(seen[0], table.image_scale * image + table.noise_scale * noise, atol=1e-6)
    assert table.image_scale**2 + table.noise_scale**2 == pytest.approx(1) and len(seen) == 6
    with pytest.raises(InputError, match="a table that begins midway needs the image"):
        loop.run(table, predict, noise, lambda: zeros)


@pytest.mark.parametrize("begin", [-1, 10, 11])
def test_midway_is_within_the_grid(begin):
    message = f"the step to begin at must be from 0 to 9 where there are 10, not {begin}"
    with pytest.raises(InputError, match=message):
        samplers.table(_scheduler(), "euler", "karras", Options(), 10, begin)


def test_midway_a_group_that_is_cut_begins_with_what_is_left_of_it():
    """DPM-Solver++(3S) has groups 1 2 3: begun at the 2, that is 1 2, and at the 3, it is 1."""
    for begin, groups in ((3, [1, 2, 3]), (4, [1, 2, 1]), (5, [1, 1, 2])):
        table = samplers.table(_scheduler(), "dpmpp_2s", "karras", Options(order=3, kind="heun"), 20, begin)
        assert [len(row.mix.estimates) for row in table.rows[:3]] == groups


def test_midway_past_zero_signal_epsilon_is_well_defined():
    scheduler = _scheduler(rescale_betas_zero_snr=True)
    table = samplers.table(scheduler, "ddim", "trailing", Options(corrector=True), 10, 1)
    assert table.image_scale > 0


@pytest.mark.parametrize("corrector", [True, False])
def test_each_evaluation_of_unipc_is_a_step_of_its_own(corrector):
    options = samplers.Options(corrector=corrector)
    assert samplers.table(Scheduler.from_hf(SD), "unipc", "", options, 6).steps == [1, 2, 3, 4, 5, 6]
