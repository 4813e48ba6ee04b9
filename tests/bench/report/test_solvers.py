"""The tables of samplers and schedules."""

import pytest

from bench import results
from bench.report import solvers

MACHINE = dict.fromkeys(("processor", "cores", "system", "device", "mlx", "blas"), "x")


@pytest.fixture
def folder(tmp_path):
    points = [
        {"guidance": guidance, "sampler": sampler, "steps": steps, "evaluations": evaluations, "rmse": rmse}
        | {"truth": {"percent": 2.0 * evaluations}}
        for guidance in (1.0, 3.0)
        for sampler, rmse in (("euler", 0.125), ("ddpm", None))
        for steps, evaluations in ((4, 4), (10, 10), (25, 25))
    ]
    values = {"points": points, "images": 16, "size": 128, "machine": MACHINE}
    values |= {"other_true": {"frechet": [70.2, 80.4, 90.1]}, "true": {"frechet": 75.1, "clip_score": 90.04}}
    results.write(tmp_path / solvers.SOLVERS, values)
    return tmp_path


def test_a_row_has_what_at_most_so_many_evaluations_reach(folder):
    lines = solvers.section(folder).splitlines()
    dash = "\N{EN DASH}"
    assert f"| `euler` |{' 0.125 |' * 6} 8% | 20% | 20% |" in lines
    assert f"| `ddpm` |{f' {dash} |' * 6} 8% | 20% | 20% |" in lines
    assert "error, guidance 3: 5" in lines[0] and "between 70 and 90, in the middle 80" in lines[-1]


def test_a_row_of_a_schedule_has_its_bound_and_its_scores(tmp_path):
    scores = {"rmse": 0.0874, "frechet": 83.04, "clip_score": 88.8, "truth": {"percent": 87.5}}
    results.write(tmp_path / solvers.ALIGNED, {"schedules": {"aligned": {"bound": 3249.2} | scores}})
    assert "| `aligned` | 3249 | 0.087 | 83.0 | 88.8 | 88% |" in solvers.aligned(tmp_path)
