"""The bench of solvers: what it places where, and that nothing is computed twice."""

import numpy as np
import pytest

from bench.quality import solvers
from mlx_sd.sampling import samplers


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Blocks of two pictures, few evaluations, few solvers, few true pictures."""
    monkeypatch.setattr(solvers, "BLOCK", 2)
    monkeypatch.setattr(solvers, "EVALUATIONS", (1, 3))
    monkeypatch.setattr(solvers, "REFERENCE_STEPS", 4)
    monkeypatch.setattr(solvers, "TRUE", 6)
    monkeypatch.setattr(solvers, "OTHER", 8)
    monkeypatch.setattr(samplers, "names", lambda: ("euler", "heun", "edm", "ddpm"))
    monkeypatch.setattr(solvers.Bench, "_true", lambda self, seeds: _features(len(seeds)))
    return solvers.Bench(tmp_path)


def _features(count):
    return np.random.default_rng(0).standard_normal((count, 192)).astype(np.float32)


def test_solvers_are_placed_by_evaluations_of_the_network(tmp_path):
    points = solvers.Bench(tmp_path).points()
    assert {p.sampler for p in points[1:]} == set(samplers.names())
    assert (points[0].sampler, points[0].steps) == (solvers.REFERENCE, solvers.REFERENCE_STEPS)
    assert len(set(points)) == len(points) and all(p.table.noise_scale == 1 for p in points)
    for name in samplers.names():
        counts = [len(p.table.rows) for p in points[1:] if p.sampler == name]
        assert all(n <= most for n, most in zip(counts[-2:], (30, 50), strict=True))
        assert all(any(n in (most, most - 1) for n in counts) for most in solvers.EVALUATIONS), name
    noisy = {p.sampler for p in points if p.noisy}
    assert noisy >= {"euler_ancestral", "ddpm"} and noisy.isdisjoint({"euler", "heun", "dpmpp_2m"})


def test_what_is_computed_is_kept_and_what_agrees_is_shared(bench, monkeypatch):
    points = bench.points()
    for point in points:
        bench.cell(point, 1.0, 0)
    # The reference, euler twice, heun twice, ddpm's three steps: its one step is Euler's, and all of edm is heun.
    assert len(list(bench.work.iterdir())) == 6
    monkeypatch.setattr(bench, "_latents", lambda *_: pytest.fail("computed again"))
    results = bench.results(points, (1.0, 2.0), 2)
    assert len(results["points"]) == len(points)  # at guidance 2 there is nothing yet
    found = {(p["sampler"], p["evaluations"]): p for p in results["points"]}
    assert found["heun", 3] | {"sampler": "edm"} == found["edm", 3]
    assert found["dpmpp_2m", 4]["rmse"] == 0 and found["ddpm", 3]["rmse"] is None
    assert 0 < found["euler", 3]["rmse"] < found["euler", 1]["rmse"]
    low, middle, high = results["other_true"]["frechet"]
    assert 0 <= low <= middle <= high


def test_a_block_does_not_depend_on_how_many_there_are(bench):
    point = bench.point("ddpm", 3)
    both = bench._all(point, 1.0, 4)["latents"]
    assert np.array_equal(bench._all(point, 1.0, 2)["latents"], both[:2])
    assert np.abs(both[:2] - both[2:]).min() > 0


def test_a_number_of_pictures_that_is_no_multiple_of_a_block_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        solvers.main(["--images", "20"])
    assert left.value.code == 2 and "--images must be a multiple of 16, not 20" in capsys.readouterr().err
