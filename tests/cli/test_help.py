"""Every option of every command has a line of help, which names its default."""

import argparse
import contextlib
import io
from importlib import import_module

import pytest

from bench.__main__ import COMMANDS
from mlx_sd.cli import completion, main
from mlx_sd.core.parser import Parser

PARSERS = {name: entry.module for name, entry in main.COMMANDS.items() if name != "bench"}


def _parser_of(command, monkeypatch):
    """The parser of a measurement, which its main builds and hands the words to."""
    parsers = []

    def parse_args(self, args=None, namespace=None):
        parsers.append(self)
        raise SystemExit(0)

    name = "bench.tiny.__main__" if command == "tiny" else COMMANDS[command].module(command)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(Parser, "parse_args", parse_args)
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        import_module(name).main([])
    return parsers[0]


def _silent(parser):
    """The options without help, and those whose default is said nowhere."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        text = formatter._get_help_string(action) or ""
        if not text.strip():
            yield action.option_strings or action.dest
        named = "default" in text or isinstance(action, _FLAGS)
        if not named and action.default not in (None, False, [], argparse.SUPPRESS):
            yield action.option_strings, action.default


_FLAGS = (argparse._StoreTrueAction, argparse._StoreFalseAction)


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_is_explained_with_its_default(name):
    assert list(_silent(completion._parser(name, PARSERS[name]))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_so_is_every_option_of_a_measurement(name, monkeypatch):
    assert list(_silent(_parser_of(name, monkeypatch))) == []
