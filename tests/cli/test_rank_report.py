"""What one rank prints for all: how far they are, who has failed, and paths or JSON in the order of the prompts."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_sd import Request
from mlx_sd.cli import rank_report
from mlx_sd.cli.plan import Draft
from mlx_sd.cli.progress import Progress
from mlx_sd.cli.prompt_list import Template
from mlx_sd.cli.rank_report import RankReport
from mlx_sd.cli.rank_units import Units
from mlx_sd.cli.targets import Picture
from mlx_sd.jobs import State

TEMPLATE = Template(Request(prompt="a tent"), 1, False)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    moved = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(rank_report.time, "monotonic", lambda: moved.now)
    return moved


@pytest.fixture
def report_of(tmp_path, clock):
    """report_of(json=True) is the report of rank 0 of two, over four pictures of which the second was there."""
    picture = Picture(TEMPLATE.request, None, "a tent", 0, 0, 1)
    drafts = [Draft(TEMPLATE, picture._replace(seed=i, number=i + 1), tmp_path / f"{i}.png") for i in range(4)]
    drafts[1].state = State.DONE
    drafts[1].target.write_bytes(b"before")

    def make(rank=0, facts=None, silent=(), state="working", **options):
        """Returns the report, whose other rank has told some facts."""
        told = {0: {}, 1: facts or {}}
        beats = SimpleNamespace(
            tell=lambda **facts: told[rank].update(facts),
            facts=lambda rank: told[rank],
            silent=lambda: list(silent),
            state=lambda rank: state,
            name=lambda rank: f"rank {rank} (host mac-{rank})",
        )
        arguments = SimpleNamespace(quiet=False, json=False, verbose=False, metadata=True, overwrite=False)
        vars(arguments).update(options)
        plan = SimpleNamespace(drafts=drafts, folder=tmp_path, drawn_seed=None, resumes=lambda draft: True)
        report = RankReport(
            arguments, "command", plan, Progress(4, quiet=True), SimpleNamespace(rank=rank, size=2, beats=beats)
        )
        report.planned(drafts)
        folder = SimpleNamespace(run="run", add=lambda number, record: None)
        report.work_begins(folder, Units(drafts, [[[0], [2], [3]]], 2), together=True)
        return report

    return make


@pytest.fixture
def lines(capfd):
    """The lines that were printed on the standard error since the last call."""
    return lambda: capfd.readouterr().err.splitlines()


def test_a_line_says_how_far_all_ranks_are_and_how_fast_each_is(report_of, clock, lines):
    report = report_of(facts={"pictures": 2})
    lines()
    report.show()
    clock.now += 9
    report.show()
    assert lines() == []
    clock.now += 21
    report.show()
    report.show()
    assert lines() == [
        "command: [###############-----] 3 of 4 pictures, 4.0 a minute (rank 0 0.0, rank 1 4.0), 15 s left"
    ]
    assert report_of(facts={"pictures": 2}, quiet=True).show() is None and lines() == []


def test_a_rank_that_fails_is_named_once_by_the_one_that_prints(report_of, clock, lines):
    report = report_of(facts={"failure": "makes no more pictures: the disk is full"})
    other = report_of(rank=1)
    lines()
    for _ in range(2):
        report.show()
        other.show()
    assert lines() == [
        "command: rank 1 (host mac-1) makes no more pictures: the disk is full; the others make its pictures"
    ]


def test_the_next_rank_prints_where_the_first_is_silent_and_not_where_it_says_why_it_fails(report_of):
    assert report_of(0).speaks() and not report_of(1).speaks()
    assert report_of(1, silent=[0]).speaks()
    assert not report_of(1, silent=[0], state="failed").speaks()


@pytest.mark.parametrize("rank", [0, 1])
def test_paths_are_printed_in_the_order_of_the_prompts(rank, report_of, tmp_path, capfd):
    report = report_of(rank, silent=[0] if rank else [])
    capfd.readouterr()
    for i in (3, 0):
        (tmp_path / f"{i}.png").write_bytes(b"picture")
    report.sheet(tmp_path / "index.jsonl")
    report.list_pictures()
    assert capfd.readouterr().out.split() == [str(tmp_path / name) for name in ("0.png", "3.png", "index.jsonl")]
    assert report.so_far() == "; 3 of 4 pictures are there; the same command makes only what is missing"


def test_json_has_all_pictures_and_those_of_a_lost_journal_without_times(report_of, tmp_path, capfd):
    report = report_of(json=True)
    (tmp_path / "0.png").write_bytes(b"picture")
    report.records = {3: {"output": "2.png", "made": True, "rank": 1, "seconds": 0.1}}
    report.list_pictures()
    records = json.loads(capfd.readouterr().out)
    assert [(Path(record["output"]).name, record["made"]) for record in records] == [
        ("0.png", True),
        ("1.png", False),
        ("2.png", True),
    ]
    assert "seconds" not in records[0] and records[0]["seed"] == 0 and records[2]["rank"] == 1


def test_what_the_launcher_would_not_read_is_written_to_a_file(report_of, tmp_path, capfd):
    report = report_of(json=True, silent=[1])
    report.records = {3: {"output": "2.png", "note": "x" * 20_000}}
    report.list_pictures()
    out, err = capfd.readouterr()
    file = tmp_path / "printed-run.json"
    assert out == "" and str(file) in err
    assert json.loads(file.read_text())[1]["output"] == "2.png"
