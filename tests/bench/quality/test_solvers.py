"""The bench of solvers: what it places where, and that nothing is computed twice."""

import numpy as np
import pytest

from bench import results
from bench.quality import solvers
from bench.report import figure
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
    assert len(set(points)) == len(points) and all(p.table.start == 1 for p in points)
    for name in samplers.names():
        counts = [len(p.table.rows) for p in points[1:] if p.sampler == name]
        assert all(n <= most for n, most in zip(counts[-2:], (30, 50), strict=True))
        assert all(any(n in (most, most - 1) for n in counts) for most in solvers.EVALUATIONS), name
    noisy = {p.sampler for p in points if p.noisy}
    assert noisy == {"euler_ancestral", "ddpm", "dpmpp_2m_sde", "lcm", "tcd"}


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


def test_a_figure_is_drawn_of_results(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    point = {"rmse": 0.1, "frechet": 90.0, "clip_score": 80.0, "steps": 5}
    found = [
        point | {"guidance": 1.0, "sampler": name, "evaluations": n} for name in samplers.names() for n in (5, 10, 200)
    ]
    floors = {"other_true": {"frechet": [70.0, 80.0, 90.0]}, "true": {"clip_score": 90.0}}
    file, png = tmp_path / "r.json", tmp_path / "f.png"
    results.write(file, {"points": found, "images": 16, **floors})
    assert figure.main([str(file), "--guidance", "1", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert figure.main([str(file), "--guidance", "2", str(png)]) == 2
    assert "nothing at guidance 2, but at 1" in capsys.readouterr().err


def test_every_solver_is_in_one_family_of_the_figure():
    families = [name for family in figure.FAMILIES.values() for name in family]
    assert sorted(families) == sorted(samplers.names())
    assert max(map(len, figure.FAMILIES.values())) <= len(figure.COLOURS) == len(figure.MARKERS)
    assert figure.TICKS == solvers.EVALUATIONS


def test_a_number_of_pictures_that_is_no_multiple_of_a_block_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        solvers.main(["--images", "20"])
    assert left.value.code == 2 and "--images must be a multiple of 16, not 20" in capsys.readouterr().err
