"""Seeds: random where none is named, in range, recorded, and the same in Python and on the command line."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import InputError, Request, StableDiffusion, seeds

FAST = {"steps": 1, "width": 32, "height": 32, "output": "latent"}
SMALL = ("--steps", 1, "--width", 32, "--height", 32)


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.load("tiny", dtype="float32")


@given(st.integers(1, 2**32))
def test_a_drawn_seed_leaves_room_for_all_that_follow(count):
    assert 0 <= seeds.draw(count) <= seeds.HIGHEST + 1 - count


def test_no_seed_and_seed_minus_one_draw_one_each_time(sd):
    results = [sd.generate("a tent", **FAST, seed=seed) for seed in (None, -1)]
    assert len({result.seeds[0] for result in results}) == 2  # equal once in 2**32 runs
    assert [sd.complete(Request(prompt="a", seed=seed)).seed is None for seed in (None, -1)] == [False, False]


def test_the_drawn_seed_is_the_one_of_the_picture(sd):
    result = sd.generate("a tent", **FAST, count=2)
    first = result.seeds[0]
    assert result.seeds == [first, first + 1]
    again = sd.generate("a tent", **FAST, seed=first)
    assert (again.latents == result.latents[:1]).all().item()


@pytest.mark.parametrize("seed", [-2, 2**32, 1.5, "7", True])
def test_seeds_out_of_range_and_of_other_types_are_refused(seed):
    with pytest.raises(InputError, match="seed must be"):
        Request(seed=seed)


def test_the_last_picture_s_seed_must_be_in_range_too(sd):
    with pytest.raises(InputError, match="not 4294967295 to 4294967296"):
        sd.generate("a tent", seed=seeds.HIGHEST, count=2)


@pytest.mark.parametrize("flags", [(), ("--seed", -1)])
def test_the_command_line_says_the_seed_it_drew_once(run, flags):
    code, out, err = run("a tent", *SMALL, *flags)
    (seed,) = re.findall(r"seed (\d+)", err)
    assert (code, out, err.count("\n")) == (0, f"a-tent-{seed}.png\n", 1)
    assert run("a tent", *SMALL, "--seed", seed, "--output", "b.png")[2] == ""  # it was named
    (report,) = json.loads(run("--from-image", out.strip(), "--json", "--output", "c.png")[1])
    assert report["seed"] == int(seed)
    again = json.loads(run("--from-image", "c.png", "--seed", -1, "--json", "--output", "d.png")[1])
    assert again[0]["seed"] != int(seed)
