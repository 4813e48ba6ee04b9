"""Ranks that are killed, stopped or full: no picture is lost, none is made twice, and one line names the rank."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_sd import jobs, metadata
from tests.support.batches import APART, NOTED, contents, program, saved
from tests.support.launcher import Launch, Launches, needs_launcher, needs_proc, wait_for

pytestmark = [needs_launcher, needs_proc, pytest.mark.slow]

PICTURES = 16
LIST = ("--prompts", "prompts.txt", "--count", str(PICTURES // 2), "--output", "p/")


@pytest.fixture
def launches(tmp_path):
    """Starts programs in a folder with a list of prompts."""
    (tmp_path / "prompts.txt").write_text("a tent\na house\n", encoding="utf-8")
    with Launches(tmp_path) as started:
        yield started


@pytest.fixture
def begin(launches, tmp_path) -> Callable[..., Launch]:
    """begin(ranks, *words) is a run that has written a picture or more of each rank."""

    def start(ranks: int, *words: str, changes: tuple[str, ...] = (), pause: float = 0.2) -> Launch:
        file = tmp_path / "saved.txt"
        file.unlink(missing_ok=True)
        variables = {"SAVED": str(file), "PAUSE": str(pause), "BEGUN": str(ranks)}
        loud = [word for word in program(NOTED, *changes) if word != "--quiet"]
        launch = launches.start(ranks, *loud, *LIST, *words, environment=variables)
        wait_for(lambda: file.exists() and {rank for rank, _ in saved(file)} == {*range(ranks)})
        return launch

    return start


def whole(folder: Path) -> set[str]:
    """Returns the names of the pictures, each of which is whole; there is nothing hidden beside them."""
    names = {*contents(folder)} - {"index.jsonl", "contact-sheet.png"}
    assert not [name for name in names if name.startswith(".")], names
    assert all(metadata.is_whole(folder / name) for name in names)
    return names


# A rank is silent after 4 seconds, so that the tests do not take longer than they need.
SOONER = "from mlx_sd.ranks import members; members.SILENCE = 4.0"
ALL = {f"a-{word}-{seed}.png" for word in ("tent", "house") for seed in range(3, 3 + PICTURES // 2)}


def assert_made_once(tmp_path: Path) -> None:
    names = [Path(name).name for _, name in saved(tmp_path / "saved.txt")]
    assert sorted(names) == sorted(ALL)
    assert whole(tmp_path / "p") == ALL
    entries = [json.loads(line)["name"] for line in (tmp_path / "p/index.jsonl").read_text().splitlines()]
    assert len(entries) == PICTURES and {*entries} == ALL


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run_with_a_line_that_counts_the_pictures(rank, begin, tmp_path):
    launch = begin(2)
    launch.signal_rank(rank, signal.SIGKILL)
    start = time.monotonic()
    ended = launch.wait(40)
    assert time.monotonic() - start < 30
    number = sum(1 for path in (tmp_path / "p").glob("*.png"))
    [line] = [line for line in ended.lines if f"rank {rank} " in line]
    assert f"rank {rank} " in line and "was killed, or has crashed" in line
    assert f"{number} of {PICTURES} pictures are there; the same command makes only what is missing" in line
    assert len(ended.out.split()) == number


def test_the_others_make_the_pictures_of_a_killed_rank(begin, tmp_path):
    launch = begin(3, "--keep-going", pause=0.8)  # the others need longer than they take to notice it
    launch.signal_rank(0, signal.SIGKILL)
    ended = launch.wait(60)
    assert_made_once(tmp_path)
    [line] = [line for line in ended.lines if "the others go on without it" in line]
    assert "rank 0 " in line
    assert {Path(name).name for name in ended.out.split()} == ALL | {"index.jsonl", "contact-sheet.png"}


def test_a_stopped_rank_ends_the_run(begin, tmp_path):
    launch = begin(2, changes=(SOONER,), pause=0.6)
    launch.signal_rank(1, signal.SIGSTOP)
    start = time.monotonic()
    ended = launch.wait(60)
    assert 3 < time.monotonic() - start < 30
    lines = [line for line in ended.lines if "rank 1 " in line and "stopped, asleep or cut off" in line]
    assert len(lines) == 1, ended
    line = lines[0]
    assert f"of {PICTURES} pictures are there" in line
    assert not launch.members()


def test_the_pictures_of_a_stopped_rank_are_taken_over_and_it_makes_none_of_them_when_it_wakes(begin, tmp_path):
    launch = begin(2, "--keep-going", changes=(SOONER,), pause=0.6)
    wait_for(lambda: claimed_by(1, tmp_path / "p"))
    launch.signal_rank(1, signal.SIGSTOP)
    [name] = claimed_by(1, tmp_path / "p")
    wait_for(lambda: "the others go on without it" in launch.printed())
    wait_for(lambda: not launch.running() or (tmp_path / "p" / name).exists())
    assert launch.running(), launch.printed()
    launch.signal_rank(1, signal.SIGCONT)
    launch.wait(90)
    assert_made_once(tmp_path)


def claimed_by(rank: int, folder: Path) -> list[str]:
    """Returns the names of the pictures that a rank makes just now."""
    names = [path.name.removeprefix(".").removesuffix(".claim") for path in folder.glob(".*.claim")]
    return [name for name in names if (jobs.owner_of(folder / name) or "").endswith(f" {rank}")]


def test_where_rank_0_stays_stopped_the_next_one_reports(begin, tmp_path):
    launch = begin(2, "--keep-going", changes=(SOONER,), pause=0.4)
    launch.signal_rank(0, signal.SIGSTOP)
    ended = launch.wait(90)
    assert_made_once(tmp_path)
    assert [name for name in ended.out.split() if name.endswith(".jsonl")] == ["p/index.jsonl"]
    assert len(ended.out.split()) == PICTURES + 2


# Rank 1 can write only small files, as where its disk is full.
FULL = """
import resource
if rank == "1" and "FULL" in os.environ:
    limit = int(os.environ["FULL"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
"""
BROKEN = """
from mlx_sd.cli import models
from mlx_sd.core.errors import InputError
if rank == os.environ["BROKEN"]:
    def load(*_): raise InputError("weights.safetensors is damaged")
    models.load = load
"""


def test_a_rank_whose_disk_is_full_leaves_its_pictures_to_the_others(launches, tmp_path):
    words = [word for word in program(FULL, NOTED) if word != "--quiet"]
    variables = {"SAVED": str(tmp_path / "saved.txt"), "FULL": "1000"}
    ended = launches.run(2, *words, *LIST, "--keep-going", environment=variables)
    [line] = [line for line in ended.lines if "rank 1" in line and "cannot be written" in line]
    assert "makes no more pictures: p/" in line and "; the others make its pictures" in line
    assert_made_once(tmp_path)
    assert {rank for rank, _ in saved(tmp_path / "saved.txt")} == {0}


@pytest.mark.parametrize("rank, keep", [("0", True), ("1", False)])
def test_a_rank_that_cannot_load_the_model(rank, keep, launches, tmp_path):
    words = [word for word in program(BROKEN, NOTED) if word != "--quiet"]
    variables = {"SAVED": str(tmp_path / "saved.txt"), "BROKEN": rank}
    ended = launches.run(2, *words, *LIST, *(["--keep-going"] if keep else []), environment=variables)
    [line] = [line for line in ended.lines if "weights.safetensors is damaged" in line]
    assert f"rank {rank}" in line
    if keep:
        assert_made_once(tmp_path)
    else:
        assert not (tmp_path / "p").exists() and set(ended.codes().values()) == {2}


def test_ctrl_c_leaves_whole_pictures_and_no_process(begin, tmp_path, interruptible):
    launch = begin(2)
    launch.signal_all(signal.SIGINT)
    launch.wait(30)  # the launcher prints no more of its ranks then
    assert whole(tmp_path / "p") == {Path(name).name for _, name in saved(tmp_path / "saved.txt")}
    assert launch.members() == []


def test_the_pictures_of_a_killed_host_are_made_on_another(begin, tmp_path):
    (tmp_path / "host1").mkdir()
    for rank in range(3):
        (tmp_path / f"host{rank}").mkdir(exist_ok=True)
        (tmp_path / f"host{rank}" / "prompts.txt").write_text("a tent\na house\n", encoding="utf-8")
    launch = begin(3, "--keep-going", changes=(APART,))
    launch.signal_rank(1, signal.SIGKILL)
    ended = launch.wait(60)
    assert any("not one folder" in line for line in ended.lines)
    assert whole(tmp_path / "host0/p") | whole(tmp_path / "host2/p") == ALL
    assert not whole(tmp_path / "host0/p") & whole(tmp_path / "host2/p")
