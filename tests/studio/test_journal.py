"""The journal: what was accepted is on disk, whatever happens to the process or to the file."""

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from mlx_sd.core.errors import Failure
from mlx_sd.studio.jobs.journal import Entry, Journal
from tests.support.studio import ROOT

ENTRY = Entry("0" * 16, 1, "page", "c", "g", True, "a.png", {"prompt": "x"}, "queued", None, None, 1.0, None, None)


def entry(number: int, **changes) -> Entry:
    return replace(ENTRY, id=f"{number:016x}", turn=number, **changes)


def test_jobs_come_back_as_they_were_in_the_order_of_their_turns(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    jobs = [entry(3), entry(1, keep=False, target=None), entry(2, kind="api")]
    journal.add(jobs)
    journal.update(jobs[0].id, "failed", error="it failed", field="steps", started=2.0, ended=3.0)
    journal.close()
    failed = replace(jobs[0], state="failed", error="it failed", field="steps", started=2.0, ended=3.0)
    assert Journal(tmp_path / "j.sqlite").entries() == [jobs[1], jobs[2], failed]


def test_an_accepted_job_survives_the_death_of_the_process(tmp_path):
    code = f"""
import os, sys
from pathlib import Path
from tests.studio.test_journal import entry
from mlx_sd.studio.jobs.journal import Journal
Journal(Path({str(tmp_path / "j.sqlite")!r})).add([entry(n) for n in range(5)])
os.kill(os.getpid(), 9)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    assert len(Journal(tmp_path / "j.sqlite").entries()) == 5


def test_every_write_is_synced_to_the_disk(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    pragmas = [journal._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]  # FULL


def test_several_jobs_are_written_all_or_none(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    journal.add([entry(1)])
    with pytest.raises(Failure, match=r"j\.sqlite cannot be written"):
        journal.add([entry(2), entry(1)])
    assert [e.id for e in journal.entries()] == [entry(1).id]


def test_only_the_last_of_those_that_ended_are_kept_and_all_that_have_not(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    journal.add([entry(n, state="done", ended=float(n)) for n in range(20)] + [entry(50), entry(51, state="running")])
    journal.trim(5)
    assert [e.turn for e in journal.entries()] == [15, 16, 17, 18, 19, 50, 51]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"x" * 200, b"no journal at all" * 100])
def test_a_damaged_journal_is_set_aside_with_one_line(tmp_path, content):
    path = tmp_path / "j.sqlite"
    path.write_bytes(content)
    journal = Journal(path)
    journal.add([entry(1)])
    assert len(journal.entries()) == 1
    if content:
        assert journal.remark and "\n" not in journal.remark and "j.damaged.sqlite" in journal.remark
        assert (tmp_path / "j.damaged.sqlite").read_bytes() == content
    else:
        assert journal.remark is None


def test_a_damaged_page_in_the_middle_is_noticed(tmp_path):
    path = tmp_path / "j.sqlite"
    journal = Journal(path)
    journal.add([entry(n, request={"prompt": "x" * 500}) for n in range(100)])
    journal.close()
    content = bytearray(path.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    path.write_bytes(content)
    assert "damaged" in (Journal(path).remark or "")


def test_a_journal_of_another_version_is_set_aside(tmp_path):
    path = tmp_path / "j.sqlite"
    Journal(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    assert "version 99" in (Journal(path).remark or "")


def test_a_second_damaged_journal_does_not_replace_the_first(tmp_path):
    for text in (b"first " * 100, b"second " * 100):
        (tmp_path / "j.sqlite").write_bytes(text)
        Journal(tmp_path / "j.sqlite").close()
    assert {p.name for p in tmp_path.glob("*damaged*")} >= {"j.damaged.sqlite", "j.damaged-2.sqlite"}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(Failure, match="cannot be opened"):
        Journal(tmp_path / "missing" / "j.sqlite")
