"""Every sampler has the order it claims, on a flow whose solution is known in closed form."""

import itertools
import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.core.errors import InputError
from mlx_sd.sampling import multistep, samplers
from mlx_sd.sampling import schedules as schedule
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.table import Options

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
DEVIATION = 0.5  # images ~ N(0, DEVIATION^2)


def _scheduler(**fields):
    return Scheduler.from_hf({"_class_name": "DDIMScheduler", "clip_sample": False, **SD, **fields})


def _smooth(steps: int) -> schedule.Steps:
    """A grid that refines evenly in lambda = log(a / s), from 4 sigma down to 0.2.

    Its first steps are so short that what a multistep method loses at its start does not show.
    """
    low, high = math.log(4), math.log(0.2)
    h = (low - high) / steps
    k = np.exp([low, low - h**2, low - h**1.5, *np.linspace(low - h, high, steps)])
    a = 1 / np.sqrt(1 + k * k)
    levels = list(zip(a, k * a, strict=True))
    return schedule.Steps(schedule.Step(float(i), *levels[i], *levels[i + 1]) for i in range(len(k) - 1))


def _posterior_mean(x, row, c=DEVIATION):
    return row.a * c * c * x / (row.a**2 * c * c + row.s**2)


def _final(table, x, image=_posterior_mean, normal=None):
    """Runs a table in float64, numbers or arrays, with what a perfect network says of images ~ N(0, c^2)."""
    x = x * table.start + (table.churn * normal() if table.churn else 0)
    base, history = x, []
    for row in table.rows:
        found = image(x, row)
        history.insert(0, found if table.history == "denoised" else (x - row.a * found) / row.s)
        if row.again:
            base = row.again[0] * base + sum(w * h for w, h in zip(row.again[1], history, strict=False))
        x = row.x * base + sum(w * h for w, h in zip(row.m, history, strict=False))
        x = x + (row.noise * normal() if row.noise else 0)
        base = x if row.ends else base
    return x


def _variance(level, c=DEVIATION):
    return level[0] ** 2 * c**2 + level[1] ** 2


def _exact(steps: schedule.Steps) -> float:
    """The probability flow keeps every quantile: x scales with its marginal's deviation."""
    first, last = steps[0], steps[-1]
    return math.sqrt(_variance((last.a1, last.s1)) / _variance((first.a, first.s)))


def _error(name, steps, scheduler, options):
    method = samplers.SAMPLERS[name]
    table = method.rows(steps, scheduler, options)
    if options.corrector if options.corrector is not None else method.corrector:
        table = multistep.corrected(table, steps, options)
    return abs(_final(table, 1 / table.start) - _exact(steps))


# DPM-Solver++(3M) gives its quadratic term half the weight that order 3 needs, as do DPM-Solver-3 and (3S) "heun" in
# their ways; each corrector adds one order.
ORDERS = [
    *(("euler", 1, {}), ("ddim", 1, {}), ("heun", 2, {}), ("edm", 1, {"order": 1}), ("edm", 2, {"order": 2})),
    *(("lms", k, {"order": k}) for k in (1, 2, 3, 4)),
    *(("deis", k, {"order": k}) for k in (1, 2, 3)),
    *(("dpm_2m", k, {"order": k}) for k in (1, 2)),
    *((name, 2, {"kind": kind}) for name in ("dpmpp_2m", "dpm_2m", "dpmpp_2s") for kind in ("midpoint", "heun")),
    *(("dpmpp_3m", 2, {}), ("dpm_2m", 2, {"order": 3}), ("dpmpp_2s", 3, {"order": 3})),
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


@pytest.mark.parametrize("start", [True, False])
def test_plms_is_of_higher_order_than_euler_on_its_own_grid(start):
    """Its Heun start bounds it by order 2; on the training grid it must beat DDIM by far."""
    scheduler = _scheduler(set_alpha_to_one=False, steps_offset=1, skip_prk_steps=start)
    errors = {}
    for name in ("ddim", "plms"):
        steps = schedule.Steps(samplers.SAMPLERS[name].grid(scheduler, 100, "leading", 7.0).steps)
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
    table = samplers.SAMPLERS[name].rows(steps, _scheduler(lower_order_final=False), Options(**options))
    sources = itertools.count(1)  # x is a combination of independent noises: the start's, and each that is added

    def normal():
        unit = np.zeros(1 + len(table.rows) + 1)
        unit[next(sources)] = 1
        return unit

    x = np.zeros(1 + len(table.rows) + 1)
    x[0] = math.sqrt(_variance((steps[0].a, steps[0].s)))
    variance = np.sum(_final(table, x, normal=normal) ** 2)
    assert next(sources) > 300
    assert variance == pytest.approx(_variance((steps[-1].a1, steps[-1].s1)), rel=3e-3)


@pytest.mark.parametrize(("name", "options"), [("lcm", {}), *(("tcd", {"gamma": g}) for g in (0.0, 0.3, 1.0))])
def test_a_perfect_distillation_has_the_exact_variance_in_few_steps(name, options):
    """What LCM and TCD networks learn is the end of the flow; with it every step has its marginal's variance."""
    scheduler = _scheduler()
    steps = schedule.Steps(samplers.SAMPLERS[name].grid(scheduler, 4, "trailing", 7.0).steps)
    table = samplers.SAMPLERS[name].rows(steps, scheduler, Options(**options))
    variance = _variance((steps[0].a, steps[0].s))
    for row, p in zip(table.rows, steps, strict=True):
        if name == "lcm":
            gain = DEVIATION / math.sqrt(_variance((row.a, row.s)))
        else:  # to where row.noise begins: the image that brings the flow there
            reached = math.sqrt(1 - row.noise**2)
            below = (p.a1 / reached, math.sqrt(1 - (p.a1 / reached) ** 2))
            gain = (reached * math.sqrt(_variance(below) / _variance((row.a, row.s))) - row.x) / row.m[0]
        variance = (row.x + row.m[0] * gain) ** 2 * variance + row.noise**2
        assert variance == pytest.approx(_variance((p.a1, p.s1)), rel=1e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_churn_is_as_karras_et_al_published_it(order):
    """Algorithm 2 written out, with a network that is neither linear nor blind to its level."""
    draws = np.random.RandomState(0).standard_normal((40, 5))
    options = Options(order=order, s_churn=8.0, s_tmin=0.05, s_tmax=10.0, s_noise=1.003)
    scheduler = _scheduler()
    table = samplers.table(scheduler, "edm", "karras", options, 12)
    sigmas = samplers.schedule.by_sigma(scheduler, 12, "karras").steps
    t = [p.s / p.a for p in sigmas] + [0.0]

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
    final = _final(table, next(ours), lambda x, row: image(x / row.a, row.s / row.a), lambda: next(ours))
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
            if any(p.a1 != q.a for p, q in itertools.pairwise(grid)):
                assert name in ("ddim", "plms") and spacing != "leading"
                continue
            rows = iter(table.rows)

            def predict(x, t, rows=rows):  # the epsilon that says: this is the image
                row = next(rows)
                return (x - row.a * image) / row.s

            noise = mx.array(np.random.RandomState(1).standard_normal(image.shape).astype(np.float32))
            other = None if begin is None else image + 1
            final = samplers.run(table, predict, noise, lambda: mx.zeros_like(image), image=other)
            left = 5 * grid[-1].s1  # of the noise, where the last level is not zero
            assert mx.abs(final - grid[-1].a1 * image).max().item() < 1e-4 + left, (spacing, steps)


def _named(sampler):
    return [s for s in samplers.SAMPLERS[sampler].schedules if s in schedule.names()]


@pytest.mark.parametrize("name", samplers.names())
@pytest.mark.parametrize("steps", [1, 2, 20, 50])
def test_rows_go_down_in_noise_and_within_the_training_range(name, steps):
    evaluations = {"plms": steps + (steps > 1), "heun": 2 * steps - 1, "edm": 2 * steps - 1}.get(name, steps)
    for spacing in _named(name):
        rows = samplers.table(_scheduler(steps_offset=1), name, spacing, Options(), steps).rows
        assert len(rows) == evaluations
        assert all(p.s >= q.s for p, q in itertools.pairwise(rows))
        assert all(0 <= r.t <= 999 and math.isclose(r.a**2 + r.s**2, 1) for r in rows)


MIDWAY = [
    *((name, {}) for name in samplers.names()),
    *(("edm", {"order": order, "s_churn": 2.0, "s_tmin": 0.4}) for order in (1, 2)),
    *(("euler_ancestral", {"eta": 0.3}), ("ddim", {"eta": 1.0}), ("ddim", {"corrector": True}), ("lms", {"order": 2})),
    *((name, {"order": 3}) for name in ("dpmpp_2s", "dpm_2m", "deis", "unipc")),
]


@pytest.mark.parametrize(("name", "options"), MIDWAY)
def test_midway_the_rows_are_the_tail_of_the_whole_run_once_the_memory_is_full(name, options):
    """So what depends on the number of steps, churn, stride, groups and lower orders at the end, is the whole grid's.

    Methods without memory have the very tail. PLMS, which asks once more at its start, needs five steps to forget it.
    """
    memory = {"lms": options.get("order", 4), "plms": 5, "dpmpp_3m": 3, "dpmpp_2s": options.get("order", 2)}
    memory |= dict.fromkeys(("dpmpp_2m", "dpmpp_2m_sde"), 2)
    memory |= dict.fromkeys(("dpm_2m", "deis", "unipc"), options.get("order", 2) + (name == "unipc"))
    for spacing, (steps, begin) in itertools.product(_named(name), ((10, 0), (10, 3), (14, 4), (20, 12), (20, 19))):
        chosen = samplers.choose(_scheduler(), name, spacing, Options(**options))
        whole = samplers.table(_scheduler(), *chosen, steps)
        found = samplers.table(_scheduler(), *chosen, steps, begin)
        if begin == 0:
            assert found.rows == whole.rows and found.churn == whole.churn
            continue
        each = 2 if len(whole.rows) == 2 * steps - 1 else 1  # evaluations; at the end one
        assert len(found.rows) == (steps - begin) * each - (each - 1) + (name == "plms" and begin + 1 < steps)
        kept = found.rows[memory.get(name, 0) + options.get("corrector", False) :]
        assert kept == whole.rows[len(whole.rows) - len(kept) :], (spacing, steps, begin)


@pytest.mark.parametrize(("name", "options"), MIDWAY)
def test_midway_the_first_latent_has_the_exact_variance_of_its_level(name, options):
    """Images ~ N(0, c^2), weighed, with the noise and the churn, are the marginal that the network is asked about."""
    scheduler = _scheduler()
    known = [(scheduler, spacing, 1.0) for spacing in _named(name)]
    if name in ("euler", "edm", "dpmpp_2m"):
        known += [
            (Scheduler.from_hf({"_class_name": "EDMEulerScheduler", "sigma_data": 0.7}), spacing, 0.7)
            for spacing in ("karras", "ays")
        ]
    for (model, spacing, unit), begin in itertools.product(known, (0, 3, 9)):
        chosen = samplers.choose(model, name, spacing, Options(**options))
        table = samplers.table(model, *chosen, 10, begin)
        row = table.rows[0]
        variance = (table.image * unit * DEVIATION) ** 2 + table.start**2 + table.churn**2
        assert variance == pytest.approx(_variance((row.a, row.s)), rel=1e-9), (spacing, begin)
        if table.churn == 0:
            assert (table.image * unit, table.start) == pytest.approx((row.a, row.s), rel=1e-9)


@pytest.mark.parametrize(("name", "options"), [pair for pair in MIDWAY if pair[0] not in ("lcm", "tcd")])
def test_midway_from_the_exact_marginal_it_ends_with_the_exact_marginal(name, options):
    """With the true denoiser, in many small steps; LCM's and TCD's networks are no denoisers."""
    scheduler = _scheduler(set_alpha_to_one=False, steps_offset=1)
    # In steps of one timestep from t = 200, or on a schedule that is as fine as one likes.
    spacing, steps, begin = ("leading", 999, 799) if name in ("ddim", "ddpm", "plms") else ("karras", 1000, 500)
    table = samplers.table(scheduler, *samplers.choose(scheduler, name, spacing, Options(**options)), steps, begin)
    end = samplers.SAMPLERS[name].grid(scheduler, steps, spacing, 7.0).steps[-1]
    sources = itertools.count(2)  # of the image and of the first noise are 0 and 1

    def unit(i):
        return np.eye(len(table.rows) + 4)[i]

    x = unit(0) * table.image * DEVIATION + unit(1) * table.start
    variance = np.sum(_final(table._replace(start=1.0), x, normal=lambda: unit(next(sources))) ** 2)
    assert variance == pytest.approx(_variance((end.a1, end.s1)), rel=2.5e-2)


@pytest.mark.parametrize("name", ["euler", "ddim", "heun", "edm"])
def test_midway_a_method_without_memory_ends_where_the_whole_run_ends(name):
    """From what the whole run held there, with a network that is neither linear nor blind to its level."""
    scheduler, image, begin = _scheduler(), np.random.RandomState(0).standard_normal(5), 8
    held = []

    def network(x, row):
        held.append((row.t, x))
        return np.tanh(x / row.a + row.t / 700)

    whole = samplers.table(scheduler, name, "linspace", Options(), 20)
    final = _final(whole, image, network)
    tail = samplers.table(scheduler, name, "linspace", Options(), 20, begin)
    # A method of two evaluations a step is at the start of a step the second time it is told of a timestep.
    x = [x for t, x in held if t == tail.rows[0].t][-1]
    assert np.array_equal(_final(tail._replace(start=1.0), x, network), final)


def test_midway_the_network_first_sees_the_image_and_the_noise_as_the_table_weighs_them():
    table = samplers.table(_scheduler(), "dpmpp_2m", "karras", Options(), 10, 4)
    image, noise = (mx.array(np.random.RandomState(i).standard_normal((1 + i, 4, 4, 2))) for i in (0, 1))
    seen = []

    def predict(x, t):
        seen.append(x)
        return x

    zeros = mx.zeros_like(noise)
    samplers.run(table, predict, noise, lambda: zeros, image=image)
    assert mx.allclose(seen[0], table.image * image + table.start * noise, atol=1e-6)
    assert table.image**2 + table.start**2 == pytest.approx(1) and len(seen) == 6
    with pytest.raises(InputError, match="a table that begins midway needs the image"):
        samplers.run(table, predict, noise, lambda: zeros)


@pytest.mark.parametrize("begin", [-1, 10, 11])
def test_midway_is_within_the_grid(begin):
    message = f"the step to begin at must be from 0 to 9 where there are 10, not {begin}"
    with pytest.raises(InputError, match=message):
        samplers.table(_scheduler(), "euler", "karras", Options(), 10, begin)


def test_midway_a_group_that_is_cut_begins_with_what_is_left_of_it():
    """DPM-Solver++(3S) has groups 1 2 3: begun at the 2, that is 1 2, and at the 3, it is 1."""
    for begin, groups in ((3, [1, 2, 3]), (4, [1, 2, 1]), (5, [1, 1, 2])):
        table = samplers.table(_scheduler(), "dpmpp_2s", "karras", Options(order=3, kind="heun"), 20, begin)
        assert [len(row.m) for row in table.rows[:3]] == groups


def test_midway_past_zero_signal_epsilon_is_well_defined():
    scheduler = _scheduler(rescale_betas_zero_snr=True)
    table = samplers.table(scheduler, "ddim", "trailing", Options(corrector=True), 10, 1)
    assert table.image > 0
