"""Predictions: the model finds what made the times, and what it says is marked as said by a model."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.speed import predict
from bench.speed.chips import CHIPS, POINTS
from bench.speed.loops import Loop
from bench.speed.predict import Fit
from mlx_sd import DeepCache
from mlx_sd.core.errors import InputError

PARTS = st.floats(0.05, 1)


@settings(deadline=None)  # the first example counts
@given(PARTS, PARTS, st.floats(0, 1e-3))
def test_times_made_with_three_parts_give_these_parts(compute, bandwidth, launch):
    true = Fit(compute, bandwidth, launch)
    made = [p._replace(seconds=true.seconds(predict._chip(p), _cost(p))) for p in POINTS]
    assert predict.fit(made) == (pytest.approx(compute), pytest.approx(bandwidth), pytest.approx(launch, abs=1e-9))
    assert max(map(abs, predict.left_out(made))) < 1e-6


def _cost(point):
    return predict._cost(point.model, point.latents, point.pictures)


def test_one_point_left_out_does_not_help_itself():
    wrong = [*POINTS[:-1], POINTS[-1]._replace(seconds=100 * POINTS[-1].seconds)]
    true, others = predict.left_out(POINTS)[-1], predict.left_out(wrong)[-1]
    assert math.isclose((true + 1) / 100, others + 1)


def test_the_fitted_fractions_are_between_zero_and_one():
    fractions = predict.fit(POINTS)
    assert 0 < fractions.compute < 1 and 0 < fractions.bandwidth < 1
    assert 1e-6 < fractions.launch < 1e-3


def test_more_chip_is_never_slower():
    costs = [_cost(point) for point in POINTS]
    for generation in ("M1", "M2", "M3", "M4", "M5"):
        own = [chip for name, chip in CHIPS.items() if name.split()[0] == generation]
        for small, large in pairwise(own):
            assert all(predict.fit(POINTS).seconds(large, c) < predict.fit(POINTS).seconds(small, c) for c in costs)


def test_peaks_are_those_in_the_press():
    """TFLOPS as the press has them."""
    for name, told in (("M1", 2.6), ("M1 Max", 10.6), ("M2 Ultra", 27.2), ("M3 Max", 14.3), ("M4", 3.76), ("M5", 4.45)):
        assert CHIPS[name].flops / 1e12 == pytest.approx(told, rel=0.01)


def test_a_loop_is_as_fast_as_its_steps():
    found = predict.predict(["M1"], ["sd15"], [Loop(), Loop(DeepCache(5))], 10)
    full, cached = found["predictions"]
    assert full["seconds"] == pytest.approx(10 * full["full_step"], rel=1e-3)
    assert cached["seconds"] == pytest.approx(2 * cached["full_step"] + 8 * cached["least_step"], rel=1e-2)
    assert cached["speedup"] == pytest.approx(full["seconds"] / cached["seconds"], rel=1e-3)


def test_every_line_says_that_it_is_a_prediction(tmp_path, capsys):
    file = tmp_path / "p.json"
    assert predict.main(["m2-pro", "M4Max", "--model", "sd15", "--loop", "3", "--json", str(file)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 + 2 * 2 and all(line.startswith("prediction: ") for line in said)
    found = json.loads(file.read_text())
    assert {row["chip"] for row in found["predictions"]} == {"M2 Pro", "M4 Max"}
    assert all(row["prediction"] is True for row in found["predictions"])
    assert len(found["published"]) == len(POINTS) and f"{found['error']['worst']:+.0%} at worst" in said[0]


@pytest.mark.parametrize("text", ["m2 pro", "M2-Pro", "Apple M2 Pro", "m2_pro"])
def test_a_chip_is_known_however_it_is_written(text):
    assert predict.chip_name(text) == "M2 Pro"


def test_an_unknown_chip_is_answered_with_those_there_are():
    with pytest.raises(InputError, match=r"no chip 'M9' here; there are M1, M1 Pro, .*, M5 Max"):
        predict.chip_name("M9")
