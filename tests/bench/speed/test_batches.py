"""python -m bench batches: the numbers are of whole commands, and the pictures of both kinds are compared."""

import json

import pytest

from bench.speed import batches
from tests.support.launcher import needs_launcher


@needs_launcher
@pytest.mark.slow
def test_a_round_measures_both_kinds_and_the_time_of_the_launcher(tmp_path, capsys):
    file = tmp_path / "batches.json"
    words = "--ranks 2 --pictures 6 --steps 1 --size 32 --rounds 1"
    assert batches.main([*words.split(), "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert json.loads(capsys.readouterr().out) == written
    [seconds] = written["rounds"]
    assert written["seconds"] == seconds and written["pictures"] == 6 and written["machine"]["threads"] == 1
    assert written["speedup"]["median"] == round(seconds["one_process"] / seconds["ranks"], 3)
    assert written["launcher_seconds"] == round(
        seconds["ranks_nothing_to_do"] - seconds["one_process_nothing_to_do"], 2
    )


@pytest.mark.parametrize("words", ["--ranks 1", "--pictures 1", "--rounds 0"])
def test_numbers_that_make_no_sense_are_one_line(words, capsys):
    assert batches.main(words.split()) == 2
    assert capsys.readouterr().err.startswith("bench batches: batches takes 2 --ranks or more")


def test_different_pictures_are_no_measurement(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("a.png", "index.jsonl", "contact-sheet.png"):
            (folder / file).write_text(file)
    batches._check_same(tmp_path / "one", tmp_path / "two", 1)
    (tmp_path / "two" / "a.png").write_text("other")
    with pytest.raises(RuntimeError, match="have not made the pictures of one process"):
        batches._check_same(tmp_path / "one", tmp_path / "two", 1)
