"""Alphas fall from 1 to 0, and say when tokens change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import InputError
from mlx_sd.discrete import calls, schedules

SCHEDULES = ("linear", "cosine", "beta:3,3", "beta:100,4", "beta:0.5,0.7")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 50, 1000])
def test_alphas_fall_from_one_to_zero(name, steps):
    alphas = schedules.alphas(name, steps)
    assert (len(alphas), alphas[0], alphas[-1]) == (steps + 1, 1, 0)
    assert (np.diff(alphas) <= 0).all()
    assert schedules.change_probabilities(alphas).sum() == pytest.approx(1, abs=1e-12)


def test_beta_is_the_distribution_function_of_beta():
    """Beta(2, 1) has the distribution function x^2, Beta(1, 3) 1 - (1 - x)^3."""
    x = np.arange(101) / 100
    assert np.abs(schedules.alphas("beta:2,1", 100) - (1 - x**2)).max() < 1e-12
    assert np.abs(schedules.alphas("beta:1,3", 100) - (1 - x) ** 3).max() < 1e-12
    uniform = np.abs(schedules.alphas("beta:1,1", 100) - (1 - x)).max()
    assert uniform < 1e-12


@pytest.mark.parametrize("name", SCHEDULES)
def test_times_of_change_have_the_probabilities_of_the_schedule(name):
    alphas, count = schedules.alphas(name, 20), 100_000
    times = calls.transition_times(alphas, count, np.random.default_rng(0))
    expected = schedules.change_probabilities(alphas) * count
    seen = np.bincount(times, minlength=21)[1:]
    usual = expected >= 5
    assert seen[~usual].sum() <= 5 * (~usual).sum()
    statistic = ((seen - expected)[usual] ** 2 / expected[usual]).sum()
    degrees = usual.sum() - 1
    assert statistic < degrees + 5 * np.sqrt(2 * degrees) + 5


@pytest.mark.parametrize("name", SCHEDULES)
def test_continuous_times_are_those_of_infinitely_many_steps(name):
    times = np.sort(calls.continuous_times(name, 100_000, np.random.default_rng(1)))
    changed = 1 - schedules.alphas(name, 100)
    seen = np.searchsorted(times, np.arange(101) / 100, side="right") / len(times)
    assert np.abs(seen - changed).max() < 1.63 / np.sqrt(len(times)) + 1e-3  # Kolmogorov and Smirnov, 1%


@pytest.mark.parametrize(
    ("name", "steps", "about"), [("linear", 1000, 226.0), ("beta:100,4", 1000, 72.5), ("linear", 50, 49.7)]
)
def test_calls_are_as_many_as_distinct_times_and_their_mean_is_the_formulas(name, steps, about):
    alphas, rng = schedules.alphas(name, steps), np.random.default_rng(2)
    counts = []
    for _ in range(300):
        times = calls.transition_times(alphas, 256, rng)
        counts.append(len(np.unique(times)))
    mean = schedules.mean_calls(alphas, 256)
    assert np.mean(counts) == pytest.approx(mean, rel=0.01)
    assert mean == pytest.approx(about, rel=0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_table_is_taken_where_it_falls_from_one_to_zero(values):
    falling = [1.0, *sorted(values, reverse=True), 0.0]
    assert schedules.table(falling).tolist() == falling
    if len(set(values)) > 1:
        with pytest.raises(InputError, match="falls from 1 to 0"):
            schedules.table([1.0, *sorted(values), 0.0])


@pytest.mark.parametrize("name", ["sigmoid", "beta", "beta:3", "beta:0,3", "beta:3,2000", "beta:-1,2"])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="schedule"):
        schedules.alphas(name, 10)


@pytest.mark.parametrize("steps", [0, -1, 100_001])
def test_other_numbers_of_steps_are_refused(steps):
    with pytest.raises(InputError, match="steps must be from 1 to 100000"):
        schedules.alphas("linear", steps)
