"""The plot of losses."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlx_sd.core.errors import InputError
from mlx_sd.train.run import plot
from tests.train.run.records import opened, train

CASES = {
    "no line": [],
    "one line": [{"step": 1, "loss": 0.5}],
    "one line with a validation": [{"step": 1, "loss": 0.5, "validation": 0.4}],
    "a validation alone": [{"step": 0, "validation": 0.4}],
    "the same loss always": [{"step": i, "loss": 0.5} for i in range(3)],
    "NaN": [{"step": i, "loss": None if i % 2 else 0.1} for i in range(9)],
    "zero": [{"step": i, "loss": 0.0} for i in range(9)],
    "below zero": [{"step": i, "loss": -0.1 * i} for i in range(9)],
    "many magnitudes": [{"step": i, "loss": 10.0**-i} for i in range(30)],
    "huge": [{"step": i, "loss": 1e300 * i} for i in range(3)],
}


@pytest.mark.parametrize("lines", CASES.values(), ids=CASES)
def test_any_log_has_a_plot(tmp_path, lines):
    pytest.importorskip("matplotlib")
    plot.draw(tmp_path / "loss.png", lines)
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size == (960, 540)
    assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]


def test_the_plot_of_a_run_is_drawn_from_its_log_and_leaves_no_trace_in_matplotlib(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    names = [name for name in matplotlib.rcParams if name != "backend"]  # asking for that one imports pyplot
    before = [matplotlib.rcParams[name] for name in names]
    with opened(tmp_path) as run:
        train(run, 2)
        path = run.plot()
        early = path.read_bytes()
        assert run.plot() == path == tmp_path / "loss.png" and path.read_bytes() == early
        run.log.write(3, loss=0.1)
        assert run.plot().read_bytes() != early
    assert [matplotlib.rcParams[name] for name in names] == before and "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_there_is_one_line_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"^matplotlib is missing; pip install 'mlx-sd\[train\]'$"):
        plot.draw(tmp_path / "loss.png", [])
    assert not list(tmp_path.iterdir())


def test_a_few_losses_that_stand_out_do_not_decide_the_axis():
    losses = [0.1 + 0.001 * (i % 50) for i in range(1000)]
    low, high, logarithmic = plot.limits(losses, [0.12])
    assert 0.09 < low < 0.1 and 0.149 < high < 0.16 and not logarithmic
    losses[500], losses[700] = 30.0, 1e-9
    assert plot.limits(losses, [0.12]) == (low, high, logarithmic)
    assert plot.limits(losses, [0.2])[1] > 0.2


def test_a_fall_at_the_beginning_is_seen_and_a_far_one_has_a_logarithmic_axis():
    tail = [0.1 + 0.001 * (i % 50) for i in range(5000)]
    assert plot.limits([0.5] * 20 + tail, [])[1:] == (pytest.approx(0.52), False)
    assert plot.limits([5.0] * 20 + tail, [])[1:] == (pytest.approx(5.5), True)
    assert not plot.limits([0.0] * 20 + tail, [])[2] and plot.limits([1.0] * 9, []) is None


FINITE = st.floats(-1e6, 1e6)


@given(losses=st.lists(FINITE, min_size=1), span=st.integers(2, 200))
def test_a_smoothed_curve_begins_at_the_first_loss_and_stays_between_all(losses, span):
    means = plot.smoothed(losses, span)
    assert len(means) == len(losses) and math.isclose(means[0], losses[0], abs_tol=1e-9)
    slack = 1e-9 * max(map(abs, losses)) + 1e-9
    assert all(min(losses) - slack <= mean <= max(losses) + slack for mean in means)


@pytest.mark.parametrize("span", [2, 20, 200])
def test_the_last_span_of_losses_has_86_percent_of_the_weight(span):
    """A jump from 0 to 1, `span` losses ago."""
    means = plot.smoothed([0.0] * 20 * span + [1.0] * span, span)
    assert abs(means[-1] - (1 - math.exp(-2))) < 0.03


def test_smoothing_grows_with_the_run():
    assert [plot.smoothing(n) for n in (1, 100, 1000, 10**6)] == [5, 5, 50, 200]
