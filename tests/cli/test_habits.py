"""What people type by habit becomes the request that they mean: tests/cli/habits.jsonl, a row for each.

A row has "from", the tool; "command", as it is typed; and "becomes", all settings that it changes, of the request and
of the command, and no others. A row that asks for text has "prints", how it begins.
"""

import json
import shlex
from pathlib import Path

import pytest

from mlx_sd.cli import flags, main
from tests.support import commands

ROWS = [json.loads(line) for line in Path(__file__).with_name("habits.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=[row["command"] for row in ROWS])
def test_a_habit_becomes_the_request_that_is_meant(row, capsys):
    if "prints" in row:
        with pytest.raises(SystemExit) as stop:
            main.main(shlex.split(row["command"])[1:])
        assert stop.value.code == 0 and capsys.readouterr().out.startswith(row["prints"])
        return
    assert commands.meaning(row["command"]) == row["becomes"]


def test_there_are_sixty_of_six_tools():
    assert len(ROWS) >= 60 and len({row["command"] for row in ROWS}) == len(ROWS)
    assert {"diffusers", "A1111", "ComfyUI", "mflux", "Apple", "CompVis"} <= {row["from"] for row in ROWS}


def test_every_option_occurs():
    parser = flags.parser(commands.NAME)
    words = [commands.words_of(row["command"]) for row in ROWS]
    occurring = {option for row in words for option in commands.options(row, parser)}
    assert {name for action in parser._actions for name in action.option_strings[-1:]} <= occurring
