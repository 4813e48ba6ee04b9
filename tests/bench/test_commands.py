"""`python -m bench NAME`: every measurement is a command, and every command is there."""

from importlib import import_module
from pathlib import Path

import pytest

from bench import __main__ as bench

FOLDER = Path(bench.__file__).parent


def _module(name):
    return bench.COMMANDS[name].module("__main__" if name == "tiny" else name)


def test_every_module_with_a_command_line_is_a_command():
    files = [path.relative_to(FOLDER) for path in FOLDER.rglob("*.py") if "def main(" in path.read_text("utf-8")]
    modules = {".".join(("bench", *path.with_suffix("").parts)) for path in files} - {"bench.__main__"}
    assert modules == set(map(_module, bench.COMMANDS))


@pytest.mark.parametrize("name", bench.COMMANDS)
def test_a_command_has_help_that_names_it(name, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main([name, "--help"])
    assert ended.value.code == 0 and f"python -m bench {name}" in capsys.readouterr().out


def test_help_lists_each_command_in_one_line(capsys):
    assert bench.main([]) == bench.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, command in bench.COMMANDS.items():
        assert sum(line.split() == [name, *command.summary.split()] for line in lines) == 2


def test_an_unknown_command_is_one_line(capsys):
    assert bench.main(["speed", "--json", "x"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no command 'speed'" in error and "the commands are latency, " in error


@pytest.mark.parametrize("name", bench.COMMANDS)
def test_a_command_is_a_module_with_a_documented_entry(name):
    assert import_module(_module(name)).main.__doc__
