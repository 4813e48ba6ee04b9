"""The figure of solvers: its samplers and their columns follow from the results."""

import pytest

from bench import results
from bench.report import figure

FLOORS = {"other_true": {"frechet": [70.0, 80.0, 90.0]}, "true": {"clip_score": 90.0}}


def _points(sampler, rmse=0.1, evaluations_a_step=1):
    counts = {"guidance": 1.0, "sampler": sampler, "rmse": rmse, "frechet": 90.0, "clip_score": 80.0}
    return [counts | {"steps": n // evaluations_a_step, "evaluations": n} for n in (10, 20, 200)]


def test_the_column_of_a_sampler_follows_from_its_results():
    points = [*_points("new"), *_points("two_stages", evaluations_a_step=2), *_points("noisy", rmse=None)]
    assert figure.columns(points) == dict(zip(("new", "two_stages", "noisy"), figure.COLUMNS, strict=True))


@pytest.mark.slow
def test_a_figure_is_drawn_of_as_many_samplers_as_were_measured(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    points = [point | {"frechet": 80.0 + i} for i in range(len(figure.STYLES) + 1) for point in _points(f"sampler {i}")]
    file, png = tmp_path / "r.json", tmp_path / "f.png"
    results.write(file, {"points": points, "images": 16, **FLOORS})
    assert figure.main([str(file), "--guidance", "1", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert figure.main([str(file), "--guidance", "2", str(png)]) == 2
    assert "nothing at guidance 2, but at 1" in capsys.readouterr().err
