"""Align Your Steps: the optimisation of a schedule, and its file."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.schedules import ays, klub
from mlx_sd import StableDiffusion
from mlx_sd.sampling import samplers, schedules
from mlx_sd.schedule_file import read_schedule

DEVIATION = 0.5


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.load("tiny", "float32")


def _gaussian(x, t):
    return np.float32(DEVIATION**2 / (DEVIATION**2 + t * t)) * x


@pytest.fixture(scope="module")
def paths(sd):
    solver = ays.Solver(sd, "dpmpp_2m")
    images = np.random.default_rng(0).standard_normal((4, 2000)).astype(np.float32) * DEVIATION
    return klub.follow(_gaussian, images, solver.low, solver.high, 96, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.031, 14.0), min_size=1, max_size=15, unique=True), st.integers(1, 4))
def test_snapped_levels_are_falling_edges_from_the_highest_to_the_lowest(inner, gap):
    edges = np.geomspace(0.03, 15.0, 97)
    nodes = ays.snapped(edges, np.array([12.0, *sorted(inner, reverse=True), 0.03]), gap)
    assert (nodes[0], nodes[-1]) == (96, 0)
    assert all(p - q >= gap for p, q in itertools.pairwise(nodes))


def test_levels_that_are_edges_stay_unchanged():
    edges = np.geomspace(0.03, 15.0, 97)
    nodes = [96, 70, 41, 40, 12, 0]
    assert ays.snapped(edges, edges[nodes]) == nodes


def test_spreading_goes_evenly_through_the_logarithms():
    levels = np.array([16.0, 4.0, 2.0])
    assert ays.spread(levels, 2) == pytest.approx(levels)
    assert ays.spread(levels, 4) == pytest.approx([16, 8, 4, np.sqrt(8), 2])
    assert ays.spread(levels, 1) == pytest.approx([16, 2])


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "dpmpp_3m"])
def test_no_sweep_raises_the_bound_and_the_nearest_latents_end_it(sd, paths, name):
    solver = ays.Solver(sd, name)
    errors = iter([5.0, 4.0, 4.5, 4.2, 1.0])
    sweeps = ays.optimise(paths, solver, lambda levels: next(errors))
    assert all(q.bound <= p.bound for p, q in itertools.pairwise(sweeps))
    assert sweeps[-1].bound < sweeps[0].bound
    # Two sweeps without improvement are enough; the last error is never computed.
    assert [sweep.rmse for sweep in sweeps] == [5.0, 4.0, 4.5, 4.2]


@pytest.mark.parametrize("steps", [20, 40, 15])
def test_dividing_keeps_earlier_steps_and_lowers_the_bound(sd, paths, steps):
    solver = ays.Solver(sd, "euler")
    ten = ays.snapped(paths.edges, solver.levels(10), 4)
    nodes = ays.refine(paths, solver, ten, steps)
    assert len(nodes) == (steps if steps != 15 else 40) + 1 and nodes[:: (len(nodes) - 1) // 10] == ten
    plain = ten
    while len(plain) < len(nodes):
        plain = klub.divided(plain)
    orders = [1] * (len(nodes) - 1)
    assert klub.bound(paths, nodes, orders) < klub.bound(paths, plain, orders) < klub.bound(paths, ten, [1] * 10)


@pytest.mark.parametrize("name", ays.SOLVERS)
def test_a_schedule_is_read_back_by_its_solver(sd, name):
    scheduler, solver = sd.model.scheduler, ays.Solver(sd, name)
    levels = ays.spread(solver.levels(10), 12)
    schedule = solver.schedule(levels)
    text = next(f"{kind}={','.join(map(str, values))}" for kind, values in schedule.items())
    method = samplers.choose(scheduler, name, text)
    rows = samplers.table(scheduler, *method, 12).rows
    assert [row.level.sigma for row in rows] == pytest.approx(levels[:-1], rel=0.02)
    expected = samplers.SAMPLERS[name].grid(scheduler, 12, solver.spacing, 7.0).steps[-1]
    from_file = samplers.SAMPLERS[name].grid(scheduler, 12, method[1], 7.0).steps[-1]
    assert from_file.end.sigma == pytest.approx(expected.end.sigma, abs=1e-4)


@pytest.mark.parametrize("steps", [10, 7])
def test_the_file_is_a_schedule(tmp_path, monkeypatch, sd, steps):
    monkeypatch.setattr(ays.PromptedModel, "denoise", lambda self, y, k: _gaussian(y, k))
    monkeypatch.setattr(ays.PromptedModel, "_sample", lambda self, *_: np.array(self._noise) * DEVIATION)
    (tmp_path / "prompts.txt").write_text("a red tent\n\na blue house\n")
    out = tmp_path / "steps.json"
    arguments = ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(out), "--steps", str(steps), "--paths", "3"]
    assert ays.main(arguments) == 0
    spacing = samplers.choose(sd.model.scheduler, "dpmpp_2m", read_schedule(out))[1]
    assert schedules.step_count(spacing) == steps
    assert json.loads(out.read_text())["about"]["steps"] == steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "none.txt"], "none.txt: No such file"),
        (["--prompts", "empty.txt"], "empty.txt is empty; give one prompt a line"),
        (["--prompts", "latin.txt"], "latin.txt: not UTF-8"),
        (["--prompts", "one.txt", "--strata", "20"], "at least 1 path, 80 strata and 2 steps"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "one.txt").write_text("a tent\n")
    assert ays.main([*arguments, "--out", "out.json"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out.json").exists()


def test_a_solver_without_a_bound_is_refused(capsys):
    with pytest.raises(SystemExit):
        ays.main(["--prompts", "p", "--out", "o", "--sampler", "heun"])
    assert "invalid choice: 'heun'" in capsys.readouterr().err
