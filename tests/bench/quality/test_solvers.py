"""The comparison of solvers: their numbers of evaluations, and that nothing is computed twice."""

import numpy as np
import pytest

from bench.quality import blocks, solvers
from mlx_sd.sampling import samplers


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    """Blocks of two pictures, few evaluations, few solvers, few true pictures."""
    monkeypatch.setattr(blocks, "BLOCK", 2)
    monkeypatch.setattr(solvers, "EVALUATIONS", (1, 3))
    monkeypatch.setattr(solvers, "REFERENCE_STEPS", 4)
    monkeypatch.setattr(solvers, "TRUE", 6)
    monkeypatch.setattr(solvers, "COUNT", 8)
    monkeypatch.setattr(samplers, "names", lambda: ("euler", "heun", "edm", "ddpm"))
    monkeypatch.setattr(solvers.SolverComparison, "_true", lambda self, seeds: _features(len(seeds)))
    return solvers.SolverComparison(tmp_path, 128)


def _features(count):
    return np.random.default_rng(0).standard_normal((count, 192)).astype(np.float32)


def test_solvers_are_placed_by_evaluations_of_the_network(tmp_path):
    points = solvers.SolverComparison(tmp_path).points()
    assert {p.sampler for p in points[1:]} == set(samplers.names())
    assert (points[0].sampler, points[0].steps) == (solvers.REFERENCE, solvers.REFERENCE_STEPS)
    assert len(set(points)) == len(points) and all(p.table.noise_scale == 1 for p in points)
    for name in samplers.names():
        counts = [len(p.table.rows) for p in points[1:] if p.sampler == name]
        assert counts == sorted(counts) and counts[-1] <= max(solvers.EVALUATIONS), name
    assert tuple(len(p.table.rows) for p in points if p.sampler == "euler") == solvers.EVALUATIONS
    noisy = {p.sampler for p in points if p.noisy}
    assert noisy >= {"euler_ancestral", "ddpm"}
    assert noisy.isdisjoint(name for name, sampler in samplers.SAMPLERS.items() if sampler.order)


@pytest.mark.slow
def test_finished_blocks_are_stored_and_shared_by_methods_that_agree(comparison, monkeypatch):
    points = comparison.points()
    for point in points:
        comparison.block(point, 1.0, 0)
    # The reference, euler twice, heun twice, ddpm's three steps: its one step is Euler's, and all of edm is heun.
    assert len(list(comparison.work.iterdir())) == 6
    monkeypatch.setattr(comparison, "_latents", lambda *_: pytest.fail("computed again"))
    values = comparison.results(points, (1.0, 2.0), 2)
    assert len(values["points"]) == len(points)  # at guidance 2 there is nothing yet
    by_count = {(p["sampler"], p["evaluations"]): p for p in values["points"]}
    assert by_count["heun", 3] | {"sampler": "edm"} == by_count["edm", 3]
    assert by_count["dpmpp_2m", 4]["rmse"] == 0 and by_count["ddpm", 3]["rmse"] is None
    assert 0 < by_count["euler", 3]["rmse"] < by_count["euler", 1]["rmse"]
    assert all(point["truth"]["count"] == 2 for point in values["points"]) and values["size"] == 128
    low, middle, high = values["other_true"]["frechet"]
    assert 0 <= low <= middle <= high


@pytest.mark.slow
def test_a_block_does_not_depend_on_the_number_of_blocks(comparison):
    point = comparison.point("ddpm", 3)
    both = comparison._all(point, 1.0, 4)["latents"]
    assert np.array_equal(comparison._all(point, 1.0, 2)["latents"], both[:2])
    assert np.abs(both[:2] - both[2:]).min() > 0


def test_a_number_of_pictures_that_is_no_multiple_of_a_block_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        solvers.main(["--images", "20"])
    assert ended.value.code == 2 and "--images must be a multiple of 16, not 20" in capsys.readouterr().err


def test_more_pictures_than_captions_of_the_measure_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        solvers.main(["--images", "512"])
    assert ended.value.code == 2 and "--images must be at most 500" in capsys.readouterr().err


def test_true_pictures_are_judged_true_and_others_are_not(comparison):
    true = solvers._true_pictures(range(2, 4), 128)
    assert comparison.judged(true, 1)["true"].all()
    assert not comparison.judged(true, 0)["true"].any()
