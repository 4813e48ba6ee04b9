"""Every sampler has the order it claims, on a flow whose solution is known in closed form."""

import itertools
import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd import samplers, schedule
from mlx_sd.schedule import Scheduler

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
DEVIATION = 0.5  # images ~ N(0, DEVIATION^2)


def _scheduler(**fields):
    return Scheduler.from_hf({"_class_name": "DDIMScheduler", "clip_sample": False, **SD, **fields})


def _smooth(steps: int) -> list[schedule.Step]:
    """A grid that refines evenly in lambda = log(a / s), from 4 sigma down to 0.2."""
    k = np.exp(np.linspace(math.log(4), math.log(0.2), steps + 1))
    a = 1 / np.sqrt(1 + k * k)
    levels = list(zip(a, k * a, strict=True))
    return [schedule.Step(float(i), *levels[i], *levels[i + 1]) for i in range(steps)]


def _final(table: samplers.Table, steps: list[schedule.Step], c: float = DEVIATION) -> float:
    """Runs a table in float64 on x = 1, where E[image | x] = a c^2 x / (a^2 c^2 + s^2)."""
    x, base, history = 1.0, 1.0, []
    for row in table.rows:
        image = row.a * c * c * x / (row.a**2 * c * c + row.s**2)
        history.insert(0, image if table.history == "denoised" else (x - row.a * image) / row.s)
        x = row.x * base + sum(w * h for w, h in zip(row.m, history, strict=False))
        base = x if row.ends else base
    return x


def _exact(steps: list[schedule.Step], c: float = DEVIATION) -> float:
    """The probability flow keeps every quantile: x scales with its marginal's deviation."""
    first, last = steps[0], steps[-1]
    return math.hypot(last.a1 * c, last.s1) / math.hypot(first.a * c, first.s)


@pytest.mark.parametrize(("method", "order"), [(samplers.euler, 1), (samplers.dpmpp_2m, 2)])
def test_observed_order_is_the_claimed_order(method, order):
    errors = []
    for n in (256, 512, 1024):
        steps = _smooth(n)
        errors.append(abs(_final(method(steps, _scheduler()), steps) - _exact(steps)))
    observed = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert observed == pytest.approx([order] * 2, abs=0.1)


def test_plms_is_of_higher_order_than_euler_on_its_own_grid():
    """Its Heun start bounds it by order 2; on the training grid it must beat DDIM by far."""
    scheduler = _scheduler(set_alpha_to_one=False, steps_offset=1)
    errors = {}
    for name in ("ddim", "plms"):
        steps = samplers.SAMPLERS[name].grid(scheduler, 100, "leading")
        table = samplers.SAMPLERS[name].rows(steps, scheduler)
        errors[name] = abs(_final(table, steps) - _exact(steps))
    assert errors["plms"] < errors["ddim"] / 20


def test_ancestral_noise_restores_the_exact_variance():
    """With the true denoiser, mean and noise weights of each row give the marginal's variance at its end."""
    steps = _smooth(2000)
    table = samplers.euler_ancestral(steps, _scheduler())
    variance = steps[0].a ** 2 * DEVIATION**2 + steps[0].s ** 2
    for row in table.rows[:-1]:  # the last goes to zero
        gain = row.a * DEVIATION**2 / (row.a**2 * DEVIATION**2 + row.s**2)
        variance = (row.x + row.m[0] * gain) ** 2 * variance + row.noise**2
    last = steps[-1]
    assert variance == pytest.approx(last.a**2 * DEVIATION**2 + last.s**2, rel=2e-3)


@pytest.mark.parametrize("name", samplers.names())
def test_a_perfect_denoiser_reaches_the_image_on_every_schedule(name):
    """If every estimate is the image, so is the result, wherever steps begin where the last one ended.

    DDIM and PLMS step T // n down and begin the next step elsewhere on uneven spacings, as diffusers does.
    """
    image = mx.array(np.random.RandomState(0).standard_normal((1, 4, 4, 2)).astype(np.float32))
    scheduler = _scheduler(set_alpha_to_one=True)
    for spacing in samplers.SAMPLERS[name].schedules:
        for steps in (1, 2, 7, 30):
            table = samplers.table(scheduler, name, spacing, steps)
            grid = samplers.SAMPLERS[name].grid(scheduler, steps, spacing)
            if any(p.a1 != q.a for p, q in itertools.pairwise(grid)):
                assert name in ("ddim", "plms") and spacing != "leading"
                continue
            rows = iter(table.rows)

            def predict(x, t, rows=rows):  # the epsilon that says: this is the image
                row = next(rows)
                return (x - row.a * image) / row.s

            noise = mx.array(np.random.RandomState(1).standard_normal(image.shape).astype(np.float32))
            final = samplers.run(table, predict, noise, lambda: mx.zeros_like(image))
            assert mx.abs(final - image).max().item() < 1e-4, (spacing, steps)


@pytest.mark.parametrize("name", samplers.names())
@pytest.mark.parametrize("steps", [1, 2, 20, 50])
def test_rows_go_down_in_noise_and_within_the_training_range(name, steps):
    for spacing in samplers.SAMPLERS[name].schedules:
        rows = samplers.table(_scheduler(steps_offset=1), name, spacing, steps).rows
        assert len(rows) == steps + (name == "plms" and steps > 1)
        assert all(p.s >= q.s for p, q in itertools.pairwise(rows))
        assert all(0 <= r.t <= 999 and math.isclose(r.a**2 + r.s**2, 1) for r in rows)


def test_epsilon_from_zero_signal_is_refused():
    scheduler = _scheduler(rescale_betas_zero_snr=True)
    with pytest.raises(samplers.InputError, match="rescale_betas_zero_snr"):
        samplers.table(scheduler, "ddim", "trailing", 10)
    samplers.table(_scheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"), "ddim", "trailing", 10)
