"""Every wrong turn is one line with the way out, and changes nothing: tests/cli/wrong_turns.jsonl, a row for each.

A row has "command"; "code", its exit code; "says", words that its line must have; and "stays", the files that are at
stake. To add one, add a line: the folder that the commands run in is written by tests/support/turns.py. No message has
more than eight rows.
"""

import io
import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from mlx_sd.cli import flags
from tests.support import commands, turns

FILE = Path(__file__).with_name("wrong_turns.jsonl")
ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
_QUICK = 12  # of them in `make test`
_MOST = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with all that the rows name, and a cache with one model."""
    folder, patch = tmp_path_factory.mktemp("turns"), pytest.MonkeyPatch()
    patch.setenv("MLX_SD_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.chdir(folder)
    patch.setattr("sys.stdin", io.StringIO())
    turns.write_folder(folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def before(place):
    return turns.state(place)


def _check(row, place, before):
    """Runs a row's command; its exit code, its one line and the folder are as the row says."""
    outcome = turns.run(row["command"])
    assert outcome.code == row["code"], outcome
    assert outcome.out == "" and outcome.err.count("\n") == 1 and outcome.err.endswith("\n"), outcome
    assert "Traceback" not in outcome.err
    assert all(words in outcome.err for words in row["says"]), outcome.err
    assert set(row.get("stays", ())) <= before.keys()
    assert turns.state(place) == before


@pytest.mark.parametrize("row", ROWS[:: len(ROWS) // _QUICK], ids=lambda row: row["command"])
def test_a_wrong_turn_is_one_line_and_changes_nothing(place, before, row):
    _check(row, place, before)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[row["command"] for row in ROWS])
def test_every_wrong_turn_is_one_line_and_changes_nothing(place, before, row):
    _check(row, place, before)


def _kind(row):
    """What a row's message is about, without the names and numbers in it."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|--?[\w-]+|[\w./-]+\.\w+(:\w+)?|-?\d[\w.]*", "_", row["says"][0])
    return re.sub(r"\b(nowhere|folder|text|unfinished)\b", "_", text)


def test_no_message_has_more_than_eight_rows():
    kinds = Counter(map(_kind, ROWS))
    assert {kind: count for kind, count in kinds.items() if count > _MOST} == {}


def test_every_row_is_one_command_of_ours_with_words_to_find():
    assert len(ROWS) >= 200 and len({row["command"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert shlex.split(row["command"])[0] in ("mlx-sd", "python")
        assert row["code"] in (1, 2) and row["says"] and all(row["says"]), row
        assert row.keys() <= {"command", "code", "says", "stays"}


def test_every_option_occurs():
    parser = flags.parser(commands.NAME)
    generate = [
        row
        for row in ROWS
        if not re.match(r"mlx-sd (models|doctor|completion|convert|coreml|bench|tune)\b", row["command"])
    ]
    occurring = {o for row in generate for o in commands.options(commands.words_of(row["command"]), parser)}
    assert {name for action in parser._actions for name in action.option_strings[-1:]} <= occurring
