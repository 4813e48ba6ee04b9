"""How prompts are read in each style, against what the programs' own parsers say (tests/goldens/prompts.json)."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.errors import InputError
from mlx_sd.prompts import comfy, compel, composition, editing, emphasis, lora_tags, script, styles
from mlx_sd.prompts.style_names import PROMPT_STYLES

GOLDENS = json.loads((Path(__file__).parent.parent / "goldens" / "prompts.json").read_text())
SYNTAX = st.text(st.sampled_from('ab ()[]:|\\".,+-=123'), max_size=40)


@pytest.mark.parametrize(("text", "expected"), GOLDENS["editing"])
def test_edits_over_ten_steps_are_those_of_a1111(text, expected):
    assert [list(version) for version in editing.versions(text, 10)] == expected


@pytest.mark.parametrize(("text", "expected"), GOLDENS["emphasis"])
def test_weights_are_those_of_a1111(text, expected):
    read = []
    for i, section in enumerate(emphasis.sections(text)):
        read += [["BREAK", -1]] * (i > 0) + [list(piece) for piece in section]
    assert [words for words, _ in read] == [words for words, _ in expected]
    assert [weight for _, weight in read] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(("text", "expected"), GOLDENS["comfy"])
def test_weights_are_those_of_comfyui(text, expected):
    (section,) = comfy.sections(text)
    assert [piece.text for piece in section] == [words for words, _ in expected]
    assert [piece.weight for piece in section] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(("text", "expected"), GOLDENS["compel"])
def test_trees_are_those_of_compel(text, expected):
    parts = compel.parts(text)
    assert len(parts) == len(expected)
    for part, (texts, shares, weight) in zip(parts, expected, strict=True):
        assert [[piece.text for piece in section] for (section,) in part.blend.texts] == [
            [words for words, _ in pieces] for pieces in texts
        ]
        weights = [piece.weight for (section,) in part.blend.texts for piece in section]
        assert weights == pytest.approx([number for pieces in texts for _, number in pieces])
        assert [*part.blend.weights, part.weight] == pytest.approx([*shares, weight])


@given(SYNTAX, st.integers(1, 30))
def test_every_text_has_a_version_at_each_step(text, steps):
    versions = editing.versions(text, steps)
    lasts = [version.last for version in versions]
    assert lasts == sorted(set(lasts))
    assert lasts[0] >= 1 and lasts[-1] == steps
    assert editing.switches(text, steps) <= set(lasts)


@given(SYNTAX)
def test_text_without_syntax_is_the_same_in_all_styles(text):
    plain = "".join(character for character in text if character in "ab ")
    for style in styles.STYLES.values():
        ((sections, *more),) = (part.blend.texts for part in style.parts(plain))
        assert not more
        words = " ".join(piece.text for section in sections for piece in section)
        assert words.split() == plain.split()
        assert all(piece.weight == 1 for section in sections for piece in section)


@given(SYNTAX)
def test_no_text_breaks_a_style(text):
    for style in styles.STYLES.values():
        try:
            parts = style.parts(text)
        except InputError as error:
            assert "\n" not in str(error)
            continue
        weights = [piece.weight for part in parts for text in part.blend.texts for section in text for piece in section]
        assert all(math.isfinite(weight) for weight in weights)


def test_deep_brackets_are_read_or_refused_in_one_line():
    deep = "[" * 3000 + "a:b:3" + "]" * 3000
    assert editing.versions(deep, 10)[-1].last == 10
    assert emphasis.sections("(" * 300 + "a")[0][0].weight > 1
    assert comfy.sections("(" * 300 + "a" + ")" * 300)[0][0].weight > 1
    with pytest.raises(InputError, match="more than 100 brackets"):
        compel.parts("(" * 300 + "a" + ")" * 300)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('("a", "b").blend(1, 2, 3)', "3 weights for 2 prompts"),
        ('("a", "b").blend(1, -1)', "add up to 0"),
        ('("a", "b").blend(x, 1)', "are numbers"),
        ('("a", "b").and() c', "goes on after"),
        ("a cat.swap(dog)", "not supported"),
        ("a withLora(style, 1) tent", "--lora"),
    ],
)
def test_what_compel_cannot_do_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        compel.parts(text)


def test_and_joins_directions_with_weights():
    assert composition.directions("a tent AND a moon :0.5 AND stars:1.2") == (
        ("a tent", 1.0),
        (" a moon", 0.5),
        (" stars", 1.2),
    )
    assert composition.directions("SAND AND sea") == (("SAND", 1.0), (" sea", 1.0))
    assert composition.directions("a screen, 16:9") == (("a screen, 16:9", 1.0),)


def test_a_script_says_which_texts_hold_at_a_step():
    own = script.read("[a:b:3] AND c :0.5", "a1111", 10)
    assert own.weights == (1.0, 0.5)
    assert [own.at(step) for step in (1, 3, 4, 10)] == [("a", " c"), ("a", " c"), ("b", " c"), ("b", " c")]
    assert own.switches == {3}
    assert script.read("[a|b]", "a1111", 4).switches == frozenset()
    assert [script.read("[a|b]", "a1111", 3).at(step)[0] for step in (1, 2, 3)] == ["a", "b", "a"]


def test_only_a1111_edits_and_joins():
    for style in ("comfy", "compel", "plain"):
        assert script.read("[a:b:3] AND c", style, 10).versions == (((10, "[a:b:3] AND c"),),)
    assert script.read("a AND b", "a1111", 10, composes=False).texts == {"a AND b"}  # a negative prompt


def test_loras_are_taken_out_of_a_prompt():
    assert lora_tags.taken_out("a tent <lora:style:0.8>, red") == ("a tent , red", (("style", 0.8),))
    assert lora_tags.taken_out("<lyco:x> a")[1] == (("x", 1.0),)
    assert lora_tags.taken_out("<lora:a:0.5:0.5>")[1] == (("a", 0.5),)
    for text in ("<lora:a:0.5:1>", "<lora:a:big>"):
        with pytest.raises(InputError, match="in the prompt"):
            lora_tags.taken_out(text)


def test_the_setting_offers_the_styles_there_are():
    assert tuple(styles.STYLES) == PROMPT_STYLES
