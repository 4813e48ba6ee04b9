"""Linear multistep has exact weights, and no number of steps makes the rounding of the network's output grow."""

from fractions import Fraction

import numpy as np
import pytest

from mlx_sd.core.errors import InputError
from mlx_sd.sampling import samplers, schedules
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.table import Options
from tests.support.effort import slow_but

SD = {"_class_name": "LMSDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STEPS = (2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 999, 1000)
DEVIATION = 0.5  # images ~ N(0, DEVIATION^2)


def _table(name, steps):
    try:
        return samplers.table(Scheduler.from_hf(SD), "lms", name, Options(), steps)
    except InputError as error:  # the schedule has not so many levels
        assert "too many for lms" in str(error)
        return None


def _error_of(table, rounding):
    """The largest change of the final latents, of unit deviation at the start, when every output changes by
    `rounding` of the noise, in the direction that is worst for it: what reaches the end of each change, added up."""
    levels = [row.level for row in table.rows]

    def noise(x, level):
        image = level.signal * DEVIATION**2 * x / (level.signal**2 * DEVIATION**2 + level.noise**2)
        return (x - level.signal * image) / level.noise

    # Linear in the changes: each is a coordinate.
    x, history, total = np.zeros(len(levels)), [], 0.0
    for i, row in enumerate(table.rows):
        estimate = noise(x, row.level)
        estimate[i] += rounding
        history.insert(0, estimate)
        x = row.mix.base * x + sum(w * h for w, h in zip(row.mix.estimates, history, strict=False))
    total = np.abs(x).sum()
    return float(total)


@pytest.mark.parametrize("name", slow_but(["karras", "beta"], schedules.names()))
def test_an_output_that_is_rounded_to_float16_moves_the_latents_little(name):
    """With order 4 throughout, karras in 999 steps moved them by 4.8, and beta by 0.96."""
    for steps in STEPS:
        table = _table(name, steps)
        if table:
            assert _error_of(table, 2.0**-11) < 0.02, steps


def _exact(offsets, length):
    """The integrals from 0 to `length` of the Lagrange polynomials on `offsets`, in fractions."""
    weights = []
    for j, node in enumerate(offsets):
        coefficients = [Fraction(1)]
        for other in offsets[:j] + offsets[j + 1 :]:
            higher = [Fraction(0), *coefficients]
            lower = [*(-other * c for c in coefficients), Fraction(0)]
            coefficients = [(h + low) / (node - other) for h, low in zip(higher, lower, strict=True)]
        weights.append(sum(c * length ** (k + 1) / (k + 1) for k, c in enumerate(coefficients)))
    return weights


@pytest.mark.parametrize("name", slow_but(["karras"], schedules.names()))
def test_weights_are_the_exact_integrals_of_lagrange_polynomials(name):
    for steps in (3, 20, 100, 1000):
        table = _table(name, steps)
        if table is None:
            continue
        grid = samplers.SAMPLERS["lms"].grid(Scheduler.from_hf(SD), steps, name, 7.0).steps
        rows = list(enumerate(table.rows))
        for i, row in (*rows[:5], *rows[5:-5:97], *rows[-5:]):
            sigmas = [Fraction(step.start.sigma) for step in grid[i + 1 - len(row.mix.estimates) : i + 1]][::-1]
            length = Fraction(grid[i].end.sigma) - sigmas[0]
            exact = _exact([sigma - sigmas[0] for sigma in sigmas], length)
            found = np.array(row.mix.estimates) / grid[i].end.signal
            assert found == pytest.approx([float(w) for w in exact], rel=1e-9, abs=1e-12 * float(sum(map(abs, exact))))


def test_the_order_is_lowered_in_long_last_steps_alone():
    for name in ("karras", "exponential", "beta", "linspace"):
        for steps in (10, 20, 50):
            orders = [len(row.mix.estimates) for row in _table(name, steps).rows]
            assert orders == [min(i + 1, 4) for i in range(steps)]
    orders = [len(row.mix.estimates) for row in _table("karras", 1000).rows]
    assert orders[:-1] == [min(i + 1, 4) for i in range(999)] and orders[-1] < 4
