"""Wildcards in prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.prompts.wildcards import expand

SEED = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("a tent", {"a tent"}),
        ("a {red|blue} tent", {"a red tent", "a blue tent"}),
        ("{a|b}{c|d}", {"ac", "ad", "bc", "bd"}),
        ("{x|{y|z}}!", {"x!", "y!", "z!"}),
        ("{|very }cold", {"cold", "very cold"}),
        (r"\{red|blue\}", {"{red|blue}"}),
        (r"{a\|b|c\}}", {"a|b", "c}"}),
        ("{red}", {"{red}"}),
        ("{a {b|c}}", {"{a b}", "{a c}"}),
        ("a {red|blue tent", {"a {red|blue tent"}),
        ("red|blue} tent", {"red|blue} tent"}),
        ("{ {a|b}", {"{ a", "{ b"}),
        (r"\(a:1.2\) \n", {r"\(a:1.2\) \n"}),
        ("{a|b}\\", {"a\\", "b\\"}),
    ],
)
def test_a_wildcard_becomes_each_of_its_options_and_nothing_else(text, expanded):
    assert {expand(text, seed) for seed in range(60)} == expanded


@given(st.text("ab{|}\\ ", max_size=40), SEED)
def test_any_text_is_expanded_the_same_each_time(text, seed):
    assert expand(text, seed) == expand(text, seed)


@given(st.text("ab| é\n", max_size=40), SEED)
def test_text_without_braces_and_backslashes_stays(text, seed):
    assert expand(text, seed) == text


def test_the_choices_are_fixed_for_ever():
    """Recorded prompts are expanded ones, but a file of prompts must mean the same pictures tomorrow."""
    assert [expand("{a|b|c|d} {e|f|g}", seed) for seed in range(5)] == CHOICES


def test_choices_are_even():
    counts = [sum(expand("{a|b|c}", seed) == option for seed in range(3000)) for option in "abc"]
    assert min(counts) > 900


CHOICES = ["b f", "a f", "a f", "b f", "a g"]
