"""--split: the pictures, names and settings of one process, made by all ranks of mlx.launch and written by rank 0."""

import json
import signal
from pathlib import Path

import pytest

from mlx_sd import metadata
from tests.support.launcher import Launches, needs_launcher, needs_proc, wait_for

pytestmark = needs_launcher
GENERATE = ("-m", "mlx_sd.generate")
COMMON = ("a red tent on green grass", "--steps", "2", "--seed", "3", "--sampler", "ddim")


@pytest.fixture
def launches(tmp_path):
    with Launches(tmp_path) as started:
        yield started


def contents(folder: Path) -> dict[str, bytes]:
    """Returns every file of a folder with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_two_ranks_write_the_files_of_one_process(launches, run, tmp_path):
    ended = launches.run(2, *GENERATE, *COMMON, "--count", "2", "--split", "guidance", "--output", "shared/")
    code, out, _ = run(*COMMON, "--count", "2", "--output", "alone/")
    assert code == 0 and ended.launcher == []
    assert ended.out == out.replace("alone/", "shared/")
    [line] = ended.lines
    assert "2 ranks exchange 16.4 kB at each of 2 evaluations" in line and "longer than" in line
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone") and len(contents(tmp_path / "shared")) == 2


@pytest.mark.slow
def test_tiles_are_shared_and_a_second_run_makes_only_what_is_missing(launches, run, tmp_path):
    options = ("--width", "192", "--height", "128", "--denoise-tile", "16", "--tile", "64", "--count", "3", "--json")
    ended = launches.run(2, *GENERATE, *COMMON, *options, "--split", "tiles", "--output", "shared/")
    code, _, _ = run(*COMMON, *options, "--output", "alone/")
    assert code == 0 and ended.launcher == []
    files = contents(tmp_path / "shared")
    assert files == contents(tmp_path / "alone") and len(files) == 3
    assert [entry["made"] for entry in json.loads(ended.out)] == [True] * 3
    removed = sorted((tmp_path / "shared").iterdir())[1]
    removed.unlink()
    again = launches.run(2, *GENERATE, *COMMON, *options, "--split", "tiles", "--output", "shared/")
    assert sorted(entry["made"] for entry in json.loads(again.out)) == [False, False, True]
    assert contents(tmp_path / "shared") == files


@pytest.mark.slow
def test_ranks_follow_from_model_to_model_and_make_every_picture_of_a_list(launches, run, tmp_path):
    entries = [
        {"prompt": "a moon", "steps": 2, "seed": 1},
        {"class": 3, "model": "tiny-classes", "steps": 2, "seed": 2, "deepcache": "2"},
        {"prompt": "a moon AND a tent", "steps": 3, "seed": 3},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    ended = launches.run(2, *GENERATE, "--prompts", "list.json", "--split", "guidance", "--output", "shared/")
    code, out, _ = run("--prompts", "list.json", "--output", "alone/")
    assert (code, ended.out) == (0, out.replace("alone/", "shared/"))
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone") and len(contents(tmp_path / "shared")) == 3


@pytest.mark.slow
def test_a_seed_that_rank_0_draws_is_that_of_all(launches, run, tmp_path):
    prompt = "a red tent on green grass"
    ended = launches.run(2, *GENERATE, prompt, "--steps", "2", "--split", "guidance", "--output", "shared.png")
    assert ended.launcher == [] and ended.out == "shared.png\n"
    code, _, _ = run("--from-image", "shared.png", "--output", "again.png")
    assert code == 0
    assert (tmp_path / "shared.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert "split" not in json.dumps(metadata.read(tmp_path / "shared.png"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranks, options, words",
    [
        (2, ("--guidance", "1"), "with --guidance 1 there is one row"),
        (3, (), "has 2, to 3 ranks; take at most 2 (mlx.launch -n 2)"),
        (2, ("--model", "nowhere/at-all"), "nowhere/at-all"),
    ],
)
def test_what_cannot_be_shared_ends_all_ranks_with_one_line(ranks, options, words, launches, tmp_path):
    ended = launches.run(ranks, *GENERATE, *COMMON, "--split", "guidance", "--output", "out/", *options)
    [line] = ended.lines
    assert words in line and ended.codes()[0] == 2 and len(ended.codes()) == ranks
    assert ended.out == "" and not (tmp_path / "out").exists()


def test_one_process_is_told_to_start_several(run, tmp_path):
    code, out, errors = run(*COMMON, "--split", "guidance", "--output", "out/")
    assert (code, out) == (2, "") and errors.count("\n") == 1
    assert "start several by mlx.launch -n 2" in errors and not (tmp_path / "out").exists()


CHANGED = """
import os, sys
import mlx_sd
from mlx_sd.cli import generate
if os.environ["MLX_RANK"] == "1":
    {change}
sys.exit(generate.main())
"""
CHANGES = {
    "another version of mlx-sd": "from mlx_sd import split_checks; split_checks.VERSION = '0.0.1'",
    "another model": (
        "from dataclasses import replace; from mlx_sd import pipeline; load = pipeline.load; "
        "pipeline.load = lambda *a, **k: replace(load(*a, **k), hash='0')"
    ),
    "another version of MLX": "import importlib.metadata as m; m.version = lambda name: '0.1'",
}


@pytest.mark.slow
@pytest.mark.parametrize("part", CHANGES)
def test_a_rank_that_would_make_something_else_is_named(part, launches, tmp_path):
    script = CHANGED.format(change=CHANGES[part])
    ended = launches.run(2, "-c", script, *COMMON, "--split", "guidance", "--output", "out/")
    assert f"rank 1 has {part} than rank 0; all ranks need the same" in ended.lines[-1]
    assert ended.codes()[0] == 2 and len(ended.codes()) == 2 and not list(tmp_path.glob("out/*"))


OTHER_DEVICE = "from mlx_sd.core import device; device.describe = lambda: 'another chip'"


@pytest.mark.slow
@pytest.mark.parametrize("option", [(), ("--same-device-only",)])
def test_ranks_on_different_devices_are_named_and_refused_where_that_is_asked_for(option, launches, tmp_path):
    script = CHANGED.format(change=OTHER_DEVICE)
    ended = launches.run(2, "-c", script, *COMMON, *option, "--split", "guidance", "--output", "out/")
    assert "rank 1 on another chip" in ended.lines[0]
    assert len(list(tmp_path.glob("out/*.png"))) == (0 if option else 1)
    assert ended.codes().get(0, 0) == (2 if option else 0)


FAILING = """from mlx_sd.sampling import loop; from mlx_sd.core.errors import Failure; from mlx_sd import generation
    steps = iter(range(5))
    def failing(*_):
        if next(steps, None) is None: raise Failure("the disk is on fire")
    run = loop.run
    loop.run = lambda *a: run(*a[:4], failing, *a[5:])"""


@pytest.mark.slow
def test_an_error_of_a_rank_ends_all_and_says_how_to_go_on(launches, tmp_path):
    script = CHANGED.format(change=FAILING)
    ended = launches.run(2, "-c", script, *COMMON, "--count", "4", "--split", "guidance", "--output", "out/")
    assert "rank 1: the disk is on fire; 2 of 4 pictures are there" in ended.lines[-1]
    assert "makes only what is missing" in ended.lines[-1]
    assert len(ended.lines) == 2 and len(ended.codes()) == 2  # the first line says what is exchanged
    assert all(metadata.is_whole(file) for file in (tmp_path / "out").iterdir())
    assert len(list((tmp_path / "out").iterdir())) == 2


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("number, rank", [(signal.SIGKILL, 1), (signal.SIGINT, None)])
def test_a_killed_rank_and_ctrl_c_leave_whole_files_alone(number, rank, launches, tmp_path, interruptible):
    many = ("--count", "500", "--split", "guidance", "--output", "out/")
    launch = launches.start(2, *GENERATE, *COMMON, *many)
    wait_for(lambda: len(list(tmp_path.glob("out/*.png"))) >= 2 or not launch.running())
    launch.signal_all(number) if rank is None else launch.signal_rank(rank, number)
    ended = launch.wait(60)
    if rank is None:  # the launcher prints a traceback of its own, and reads no more of the ranks
        assert ended.codes() == {0: 130, 1: 130}
    else:
        _, line = ended.lines  # the first says what is exchanged
        assert "rank 1" in line and "makes only what is missing" in line
        assert ended.codes()[1] == -9
    assert launch.members() == []
    files = [file for file in (tmp_path / "out").iterdir() if file.suffix == ".png"]
    assert files and all(metadata.is_whole(file) for file in files)
