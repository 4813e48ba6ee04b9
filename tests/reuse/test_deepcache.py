"""DeepCache's policies: what they are read from, which evaluations they make full, and with which samplers."""

import inspect
import math
import re
import subprocess
import sys
from dataclasses import dataclass, fields

import mlx.core as mx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlx_sd import Adaptive, At, DeepCache, NonUniform
from mlx_sd.core.errors import InputError
from mlx_sd.reuse import deepcache
from mlx_sd.reuse.deepcache import parse
from mlx_sd.reuse.policy import Policy
from tests.support import families
from tests.support.effort import SAMPLERS, slow_but

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")

BRANCH, DEGREE = st.integers(0, 11), st.integers(0, 2)
POLICIES = st.one_of(
    st.builds(DeepCache, st.integers(1, 60), BRANCH, DEGREE),
    st.builds(NonUniform, st.integers(1, 60), st.none() | st.integers(0, 99), st.floats(1.01, 9), BRANCH, DEGREE),
    st.builds(At, st.sets(st.integers(1, 99)).map(lambda s: (0, *sorted(s))), BRANCH, DEGREE),
    st.builds(Adaptive, st.floats(0, math.inf), BRANCH, DEGREE),
)


def generate(sd, policy, **settings):
    settings = {"steps": 7, "guidance": families.GUIDANCE, "seed": families.SEED, "output": "latent"} | settings
    return sd.generate(families.PROMPT, families.NEGATIVE, deepcache=policy, **settings)


# ------------------------------------------------------------------------------------------------ text


@given(POLICIES)
def test_a_policy_prints_as_what_deepcache_takes(policy):
    assert parse(str(policy)) == policy


@given(st.text(st.sampled_from("0123456789.,:+-=atdpivenoufrmcs "), max_size=30))
def test_text_that_is_no_policy_is_refused_in_one_line(text):
    try:
        assert parse(str(parse(text))) == parse(text)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("3", DeepCache(interval=3, branch=0)),
        ("3:1", DeepCache(3, 1)),
        ("3:1+forecast1", DeepCache(3, 1, 1)),
        ("3+forecast2", DeepCache(3, forecast=2)),
        ("nonuniform:5", NonUniform(5)),
        ("nonuniform:5,15,1.4:1", NonUniform(5, 15, 1.4, 1)),
        ("nonuniform:5,,1.6", NonUniform(5, None, 1.6)),
        ("at=0,4,9", At((0, 4, 9))),
        ("at=0,4,9:2", At([0, 4, 9], 2)),
        ("adaptive:0.1", Adaptive(0.1)),
        ("adaptive:1e-2:3+forecast1", Adaptive(0.01, 3, 1)),
    ],
)
def test_text_is_read_as_the_policy_it_names(text, policy):
    assert parse(text) == policy


def test_a_number_is_an_interval_and_a_policy_is_itself():
    assert parse(4) == DeepCache(4)
    assert parse(None) is None
    assert parse(policy := Adaptive(0.3)) is policy


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nonunifrom:5", r"did you mean nonuniform:5\?$"),
        ("Adaptive:0.1", r"did you mean adaptive:0.1\?$"),
        ("adaptive=0.1", r"did you mean adaptive:0.1\?$"),
        ("at:0,4", r"did you mean at=0,4,9\?$"),
        ("often", f"takes N or N:BRANCH, for example {re.escape(deepcache.examples())}.* not 'often'$"),
        ("", "takes N or N:BRANCH"),
        (True, "takes N or N:BRANCH.* not True"),
        (2.5, "takes N or N:BRANCH.* not 2.5"),
        ("nonuniform:5,1,2,3", "takes N or N:BRANCH"),
        ("3+forecast3", "degree 0, 1 or 2, not 3"),
    ],
)
def test_an_error_names_the_nearest_right_spelling(value, message):
    with pytest.raises(InputError, match=message):
        parse(value)


# ------------------------------------------------------------------------------------------------ policies


def test_every_policy_of_the_module_is_listed_and_has_its_example_in_messages():
    classes = [
        value
        for _, value in inspect.getmembers(deepcache, inspect.isclass)
        if issubclass(value, Policy) and value is not Policy
    ]
    assert set(classes) == set(deepcache.POLICIES)
    for policy in classes:
        example = policy.prefix + policy.example
        assert type(parse(example)) is policy and example in deepcache.examples()
        assert [field.name for field in fields(policy)][-2:] == ["branch", "forecast"]


def test_the_help_names_every_policy_without_importing_mlx():
    code = (
        "import sys; from mlx_sd.request import SETTINGS; print(SETTINGS['deepcache'].help, 'mlx.core' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert deepcache.examples() in printed and printed.endswith(" False\n")


def test_a_new_policy_is_checked_when_it_is_built_and_read_where_others_are(monkeypatch):
    """It is a class and an entry in the list; branch and forecast are checked without a line of its own."""

    @dataclass(frozen=True)
    class Once(Policy):
        prefix, example = "once:", "4"

        second: int = 4
        branch: int = 0
        forecast: int = 0

        def full_evaluations(self, evaluations):
            return [0, self.second]

        def arguments(self):
            return str(self.second)

        @classmethod
        def from_arguments(cls, values):
            return cls(int(values[0]))

    monkeypatch.setattr(deepcache, "POLICIES", (*deepcache.POLICIES, Once))
    assert parse("once:7:2+forecast1") == Once(7, 2, 1)
    assert str(Once(7, 2, 1)) == "once:7:2+forecast1" and not Once().decides_per_image
    for fields_ in ({"branch": -1}, {"forecast": 3}):
        with pytest.raises(InputError):
            Once(**fields_)
    with pytest.raises(InputError, match=r"or once:4, .* did you mean once:4\?"):
        parse("onec:5")


def test_nonuniform_steps_are_the_papers():
    """The authors' own list for 50 steps: below the centre the real part of a complex root, not a signed one."""
    assert NonUniform(5, 15, 1.4).full_evaluations(50) == [0, 5, 9, 13, 17, 21, 26, 31, 37, 43]
    assert NonUniform(5).full_evaluations(50) == NonUniform(5, 15, 1.4).full_evaluations(50)


@given(st.integers(2, 20), st.integers(1, 120), st.floats(1.05, 3))
def test_nonuniform_is_one_in_n(interval, evaluations, power):
    try:
        full = NonUniform(interval, None, power).full_evaluations(evaluations)
    except InputError:
        assume(False)
    assert len(full) == math.ceil(evaluations / interval)
    assert full[0] == 0 and full == sorted(set(full)) and full[-1] < evaluations


def test_a_policy_is_checked_against_a_number_of_evaluations():
    NonUniform(2, 8).check(9)
    with pytest.raises(InputError, match="there is no evaluation 9 of 9 to be nonuniform DeepCache's centre"):
        NonUniform(2, 9).check(9)


def test_adaptive_policies_decide_per_image_unless_no_change_reaches_the_threshold():
    assert [policy.decides_per_image for policy in (DeepCache(), NonUniform(), At((0,)))] == [False] * 3
    assert Adaptive(0.0).decides_per_image and not Adaptive(math.inf).decides_per_image
    one, moved = mx.array([3.0, 4.0]), mx.array([3.0, 5.0])
    assert Adaptive(0.19).refreshes(one, moved) and not Adaptive(0.21).refreshes(one, moved)
    assert Adaptive(9.0).refreshes(mx.zeros(2), mx.zeros(2))  # 0 / 0 is not a number


# ------------------------------------------------------------------------------------------------ generations


def test_full_everywhere_is_no_cache_bit_for_bit(family):
    sd = family("sd1")
    plain = generate(sd, None).latents
    for policy in (At(tuple(range(9)), 1), DeepCache(1, 0, 2), Adaptive(0.0, 11, 1)):
        result = generate(sd, policy)
        assert mx.array_equal(result.latents, plain) and result.full == result.evaluations, policy


@pytest.mark.slow
def test_policies_that_choose_the_same_evaluations_make_the_same_latents(family):
    sd = family("sd1")
    third = generate(sd, DeepCache(3, 1))
    assert mx.array_equal(generate(sd, At((0, 3, 6), 1)).latents, third.latents)
    once = generate(sd, At((0,), 1, 0))
    for policy in (DeepCache(99, 1), Adaptive(math.inf, 1), Adaptive(1e9, 1), At((0,), 1, 2)):
        result = generate(sd, policy)
        assert result.full == 1 and mx.array_equal(result.latents, once.latents), policy
    assert not mx.array_equal(generate(sd, DeepCache(3, 1, 1)).latents, third.latents)


@pytest.mark.parametrize("sampler", slow_but(["heun", "unipc"], SAMPLERS))
def test_every_policy_goes_with_every_sampler(sampler, family):
    for policy in (NonUniform(2, forecast=1), At((0, 1, 4), 1, 2), Adaptive(0.2, 0, 2)):
        result = generate(family("sd1"), policy, steps=4, sampler=sampler)
        assert result.evaluations >= 4 and mx.isfinite(result.latents).all().item()
        if not isinstance(policy, Adaptive):
            assert result.full == len(policy.full_evaluations(result.evaluations))
