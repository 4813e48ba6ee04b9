"""`python -m bench NAME`: every measurement is a command, and every command is there."""

from importlib import import_module
from pathlib import Path

import pytest

from bench import __main__ as bench

FOLDER = Path(bench.__file__).parent


def test_every_module_with_a_command_line_is_a_command():
    modules = {p.stem for p in FOLDER.glob("*.py") if "def main(" in p.read_text(encoding="utf-8")} - {"__main__"}
    assert modules | {"tiny"} == set(bench.COMMANDS)


@pytest.mark.parametrize("name", bench.COMMANDS)
def test_a_command_has_help_that_names_it(name, capsys):
    if name == "figure":
        pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit) as left:
        bench.main([name, "--help"])
    assert left.value.code == 0 and f"python -m bench {name}" in capsys.readouterr().out


def test_help_lists_each_command_in_one_line(capsys):
    assert bench.main([]) == bench.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, what in bench.COMMANDS.items():
        assert sum(line.split() == [name, *what.split()] for line in lines) == 2


def test_an_unknown_command_is_one_line(capsys):
    assert bench.main(["speed", "--json", "x"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no 'speed'" in said and "latency, predict, report" in said


def test_the_commands_are_modules_with_a_contract():
    for name in bench.COMMANDS:
        module = import_module(f"bench.{name}.__main__" if name == "tiny" else f"bench.{name}")
        assert module.main.__doc__
