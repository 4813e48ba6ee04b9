"""The tables of DeepCache and T-GATE: which row is best, and what the tables say about it."""

import pytest

from bench import results
from bench.report import reuse

MACHINE = dict.fromkeys(("processor", "cores", "system", "device", "mlx", "blas"), "x")


def _row(forwards, frechet, loop="3/tgate:6", **changes):
    row = {"clip_score": 80.0, "psnr": 20.0, "frechet": frechet, "forwards": forwards, "loop": loop}
    row |= {"truth": {"percent": 90.6}}
    return {"group": "all", "sampler": "dpmpp_2m", "steps": 15, **row, **changes}


@pytest.fixture
def values():
    paper = _row(50.0, 100.0, "full", group="DeepCache", **reuse.PAPER)
    rows = [
        paper,
        _row(4.0, 110.0),
        _row(4.5, 99.0, clip_score=70.0),
        _row(4.6, 99.0, truth={"percent": 87.5}),
        _row(5.0, 101.9),
        _row(6.0, 99.0),
    ]
    return {"ways": rows, "images": 64, "true_images": 9, "other_true": {"frechet": [1.0, 2.0, 3.0]}}


def test_the_best_row_is_the_cheapest_that_is_as_good(values):
    assert reuse.best(values)["forwards"] == 5.0


def test_tables_and_plot_are_of_the_rows(values, tmp_path):
    results.write(tmp_path / reuse.CURVES, values | {"machine": MACHINE})
    assert "10.0 times fewer multiplications" in reuse.by_cost(tmp_path)
    assert "| every step full | 1.00 | 91% | 100.0 | 80.00 |" in reuse.papers(tmp_path)
    pytest.importorskip("matplotlib")
    assert reuse.curves(tmp_path).axes
