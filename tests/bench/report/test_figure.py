"""The figure of solvers: its samplers and their columns follow from the results."""

import pytest

from bench import results
from bench.report import figure, plots, solvers

FLOORS = {"other_true": {"frechet": [70.0, 80.0, 90.0]}, "true": {"clip_score": 90.0}}


def _points(sampler, rmse=0.1, evaluations_a_step=1):
    counts = {"guidance": 1.0, "sampler": sampler, "rmse": rmse, "frechet": 90.0, "clip_score": 80.0}
    return [counts | {"steps": n // evaluations_a_step, "evaluations": n} for n in (10, 20, 200)]


def test_the_column_of_a_sampler_follows_from_its_results():
    points = [*_points("new"), *_points("two_stages", evaluations_a_step=2), *_points("noisy", rmse=None)]
    assert figure.columns(points) == dict(zip(("new", "two_stages", "noisy"), figure.COLUMNS, strict=True))


@pytest.mark.slow
def test_a_figure_is_drawn_of_as_many_samplers_as_were_measured(tmp_path):
    pytest.importorskip("matplotlib")
    points = [point | {"frechet": 80.0 + i} for i in range(len(figure.STYLES) + 1) for point in _points(f"sampler {i}")]
    points += [point | {"guidance": 3.0} for point in points]
    results.write(tmp_path / solvers.SOLVERS, {"points": points, "images": 16, **FLOORS})
    for drawn, guidance in ((figure.unguided, 1), (figure.guided, 3)):
        drawing = drawn(tmp_path)
        assert f"guidance {guidance}," in drawing.get_suptitle()
        plots.save(drawing, tmp_path / "f.png")
        assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
