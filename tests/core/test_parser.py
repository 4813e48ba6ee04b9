"""The parser of all command lines: values stay with their options, texts stay texts, mistakes are one line."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.__main__ import parser as convert_parser
from mlx_sd.reuse.freeu import FreeU
from tests.support import commands

PIECES = {
    "freeu": ["--freeu"],
    "animate": ["--animate"],
    "steps": ["--steps", "3"],
    "json": ["--json"],
    "prompt": ["a tent"],
}


@pytest.mark.parametrize("order", list(itertools.permutations(PIECES)), ids=" ".join)
def test_an_option_that_can_stand_alone_never_eats_the_prompt(order):
    namespace = commands.arguments([word for name in order for word in PIECES[name]])
    assert (namespace.prompt, namespace.steps, namespace.json) == ("a tent", 3, True)
    assert (namespace.freeu, namespace.animate) == ("", "")


@pytest.mark.parametrize(
    "words", list(itertools.permutations(["--freeu 1.5,1.6,0.9,0.2", "--animate s.gif", "x"])), ids=str
)
def test_and_keeps_its_value(words):
    namespace = commands.arguments(" ".join(words))
    assert (namespace.prompt, namespace.freeu, namespace.animate) == ("x", "1.5,1.6,0.9,0.2", "s.gif")


@pytest.mark.parametrize("value", ["constant:", "structure:1,1,1,1", "0,0,0,0"])
def test_every_way_to_write_freeu_is_a_value(value):
    assert commands.request(["--freeu", value, "x"]).freeu == commands.request(["x", f"--freeu={value}"]).freeu
    assert isinstance(commands.request(["--freeu", value]).freeu, FreeU)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("x --st 3", "unknown option --st; did you mean --steps or --strength?"),
        ("x --guidence 3", "unknown option --guidence; did you mean --guidance?"),
        ("x --num-inferense-steps 3", "did you mean --steps?"),
        ("a red tent", "unexpected 'red': the prompt is 'a' already; put a text of several words between straight"),
        ("x --freeu y", "unexpected 'y': the prompt is 'x' already, and --freeu takes B1,B2,S1,S2, or nothing"),
        ("x steps=3", "unexpected 'steps=3'; did you mean --steps 3?"),
        ("x \u2013steps 3", "'\u2013steps' begins with a long dash; type --steps"),
        ("x --only-masked true", "--only-masked takes no value, so leave out 'true'"),
        ("x --json=yes", "--json takes no value, so leave out 'yes'"),
        ("x --prompt y", "the prompt is there twice, as 'x' and as --prompt 'y'"),
        ("--prompt", "--prompt needs a value"),
        ("x --steps", "--steps needs a value"),
        ("x --steps --seed 3", "--steps needs a value"),
        ("x --steps 1e9", "argument --steps: must be a whole number, not '1e9'"),
        ("x --output ''", "argument --output: must not be empty"),
        ("x --dtype float15", "did you mean 'float16'? there are float16, bfloat16, float32"),
        ("x --size 512", "a size is WIDTHxHEIGHT in pixels, for example 512x768, not '512'"),
        ("x -n blurry", "what to steer away from is --negative 'blurry'"),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(words, message):
    line = commands.mistake(words)
    assert message in line and line.count("\n") == 1, line


def test_the_same_prompt_twice_is_no_mistake():
    assert commands.request("x --prompt x").prompt == "x"


@pytest.mark.parametrize("text", ["-blurry", "-4 degrees", "- a list", "--a b", "", "-"])
def test_text_that_begins_with_a_dash_is_a_value(text):
    assert commands.request(["x", "--negative", text, "--steps", "3"]).negative == text
    assert commands.request(["x", f"--negative_prompt={text}"]).negative == text


@pytest.mark.parametrize("size", ["64x128", "64X128", "64*128", "64,128", "64 x 128", "64\u00d7128"])
def test_a_size_is_width_and_height(size):
    request = commands.request(["x", "--size", size])
    assert (request.width, request.height) == (64, 128)


@given(st.text(min_size=1).filter(lambda text: not text.startswith(("-", "\u2013", "\u2014"))))
def test_every_text_is_a_prompt_wherever_it_stands(text):
    words = (["--steps", "3", text], [text, "--steps", "3"], ["--steps", "3", "--prompt", text], ["--", text])
    for order in words:
        assert commands.arguments(order).prompt == text


def test_a_word_that_another_command_does_not_know_is_refused(capsys):
    for words, message in {
        ("model.safetensors",): "unexpected 'model.safetensors'; values stand behind their options",
        ("--mod", "x"): "unknown option --mod; did you mean --model?",
    }.items():
        with pytest.raises(SystemExit) as stop:
            convert_parser().parse_args(words)
        assert stop.value.code == 2 and message in capsys.readouterr().err
