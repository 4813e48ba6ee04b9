"""The page for people who come from other tools says what the parser does, row by row."""

import re
from pathlib import Path

import pytest

from mlx_sd import StableDiffusion
from mlx_sd.cli import flags
from tests.support import commands

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "coming-from.md"


def _rows(title):
    """The code of the first and of the last column of a section's table."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    table = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")][2:]
    return [(re.findall(r"`([^`]+)`", row[0])[0], re.findall(r"`([^`]+)`", row[-1])) for row in table]


SAME, OTHER, PYTHON = (
    _rows("Words that are taken as they are"),
    _rows("Words that mean something else"),
    _rows("Python"),
)


@pytest.mark.parametrize(("theirs", "ours"), SAME, ids=[theirs for theirs, _ in SAME])
def test_a_word_of_the_same_meaning_becomes_the_same_request(theirs, ours):
    if "--from-image" in ours[0]:  # of a picture that is not there: what is said, not the request
        assert vars(commands.arguments(theirs)) == vars(commands.arguments(ours[0]))
        return
    assert commands.request(theirs) == commands.request(ours[0])
    assert commands.command(theirs) == commands.command(ours[0])
    assert vars(commands.arguments(theirs)) != vars(commands.arguments([])), "it changes nothing"


@pytest.mark.parametrize(("theirs", "ours"), OTHER, ids=[theirs for theirs, _ in OTHER])
def test_a_word_of_another_meaning_names_ours(theirs, ours):
    line = commands.mistake(f"'a tent' {theirs}")
    assert line.count("\n") == 1
    for option in re.findall(r"--[a-z-]+|python -m \w+", " ".join(ours)):
        assert option in line, line


def test_keywords_of_diffusers_name_ours():
    words = [(theirs, ours[0]) for theirs, ours in PYTHON if re.fullmatch(r"\w+=\S+", theirs)]
    assert len(words) >= 5
    sd = object.__new__(StableDiffusion)  # the keyword is refused before anything is used
    for theirs, ours in words:
        keyword, right = (text.partition("=")[0] for text in (theirs, ours))
        with pytest.raises(TypeError, match=rf"no argument '{keyword}'; (did you mean|here it is) '{right}'"):
            sd.generate("a tent", **{keyword: None})


@pytest.mark.parametrize("forms", [slice(1, 2), pytest.param(slice(3), marks=pytest.mark.slow)])
def test_every_name_of_another_tool_is_taken_with_underscores_too(forms):
    parser = flags.parser(commands.NAME)
    for name, spelling in parser.spellings.items():
        for option in (f"--{name}", f"--{name.replace('-', '_')}", f"-{name}")[forms]:
            words = ["x"] if name == "prompt" else ["a tent", option, "7"]
            line = commands.mistake(words)
            assert "unknown option" not in line, (option, line)
            assert (spelling.hint is None) or line.count("\n") == 1, option
