"""Loading and converting show bytes on a terminal, and nothing in a pipe or when the command is quiet."""

import io
import sys

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from convert import __main__ as command
from mlx_sd import StableDiffusion
from mlx_sd.cli import generate
from mlx_sd.core import terminal


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """screen() makes the standard error a terminal and returns what is written to it; bars appear at once."""

    def attach():  # in the test itself: pytest's capture replaces the standard error after the fixtures
        written = Terminal()
        monkeypatch.setattr(sys, "stderr", written)
        monkeypatch.setattr(terminal, "_DELAY", 0)
        return written

    return attach


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_SD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_first_use_says_what_is_converted_where_and_how_large_and_shows_bytes(original, screen, empty_cache):
    written = screen()
    StableDiffusion.load(original)
    text = written.getvalue()
    (line,) = [line for line in text.replace("\r", "\n").split("\n") if "is converted" in line]
    assert line.startswith(f"{original} is converted, this once, to {empty_cache}/sd1-")
    assert line.endswith(("kB)", "MB)"))
    assert "convert:" in text and "load:" in text and "B/s" in text
    again = screen()
    StableDiffusion.load(original)
    assert "is converted" not in again.getvalue() and "load:" in again.getvalue()


def test_a_quiet_command_and_a_pipe_show_nothing(original, screen, empty_cache, tmp_path, monkeypatch):
    written = screen()
    with terminal.hidden():
        StableDiffusion.load(original)
    assert written.getvalue() == ""
    assert command.main(["--model", str(original), "--out", str(tmp_path / "shown")]) == 0
    assert "convert:" in written.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # no terminal
    assert command.main(["--model", str(original), "--out", str(tmp_path / "out")]) == 0
    assert sys.stderr.getvalue() == ""


def test_the_command_line_is_quiet_on_a_terminal(original, screen, empty_cache, run, tmp_path):
    written = screen()
    flags = ["a tent", "--model", str(original), "--steps", "1"]
    assert generate.main([*flags, "--quiet"]) == 0
    assert written.getvalue() == ""
    assert generate.main(flags) == 0
    assert "load:" in written.getvalue()


def test_what_is_loaded_is_the_same_with_a_bar_and_without(original, screen):
    screen()
    shown = StableDiffusion.load(original, "float16")
    with terminal.hidden():
        unseen = StableDiffusion.load(original, "float16")
    pairs = zip(tree_flatten(shown.unet.parameters()), tree_flatten(unseen.unet.parameters()), strict=True)
    assert all(name == other and mx.array_equal(a, b) for (name, a), (other, b) in pairs)


@pytest.mark.parametrize(("count", "text"), [(5, "5 bytes"), (4321, "4.32 kB"), (5e6, "5 MB"), (4265146304, "4.27 GB")])
def test_sizes_are_in_words(count, text):
    assert terminal.size(count) == text
