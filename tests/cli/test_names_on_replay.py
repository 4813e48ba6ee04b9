"""Names of samplers and schedules on the command line, over those of a picture that is made again."""

import numpy as np
import pytest
from PIL import Image

from mlx_sd import metadata

SMALL = ("--width", 64, "--height", 64, "--steps", 3, "--seed", 5)


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def earlier(run, tmp_path):
    """before.png, as earlier versions recorded it: karras, which was diffusers', and no noise generator."""
    flags = ("--sampler", "euler", "--schedule", "diffusers_karras", "--rho", 5)
    assert run("a tent", *flags, *SMALL, "--output", "now.png")[0] == 0
    settings = metadata.read(tmp_path / "now.png")
    assert settings.pop("rng") == "numpy" and settings["schedule"] == "diffusers_karras"
    with Image.open("now.png") as image:
        metadata.save(image, tmp_path / "before.png", settings | {"schedule": "karras"})


def test_an_earlier_picture_is_made_again_as_it_was(run, earlier, tmp_path):
    assert run("--from-image", "before.png", "--output", "again.png")[0] == 0
    assert (_pixels("again.png") == _pixels("now.png")).all()
    assert metadata.read(tmp_path / "again.png") == metadata.read(tmp_path / "now.png")


@pytest.mark.parametrize(
    "flags", [("--sampler", "Euler Karras"), pytest.param(("--schedule", "Karras"), marks=pytest.mark.slow)]
)
def test_a_name_over_an_earlier_picture_means_what_it_means_now(flags, run, earlier, tmp_path):
    assert run("--from-image", "before.png", *flags, "--output", "other.png")[0] == 0
    about = metadata.read(tmp_path / "other.png")
    assert (about["sampler"], about["schedule"], about["steps"]) == ("euler", "karras", 3)
    assert (_pixels("other.png") != _pixels("now.png")).any()


@pytest.mark.slow
def test_the_generator_of_a_picture_is_recorded_and_replayed(run, tmp_path):
    assert run("a tent", *SMALL, "--sampler", "Euler a", "--rng", "CPU", "--output", "a.png")[0] == 0
    assert run("--from-image", "a.png", "--output", "b.png")[0] == 0
    assert run("--from-image", "a.png", "--rng", "numpy", "--output", "c.png")[0] == 0
    assert (_pixels("a.png") == _pixels("b.png")).all() and (_pixels("a.png") != _pixels("c.png")).any()
    about = metadata.read(tmp_path / "a.png")
    assert (about["rng"], about["sampler"]) == ("torch", "euler_ancestral")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--sampler", "DPM++ 3M SDE Karras"), "the nearest is dpmpp_2m_sde"),
        (("--sampler", "DPM++ 2M Karras", "--schedule", "exponential"), "names the schedule karras, not exponential"),
        (("--schedule", "DPM++ 2M"), "is a sampler, not a schedule"),
        (("--rng", "mps"), "unknown rng 'mps'; there are numpy, torch, cuda"),
    ],
)
def test_wrong_names_are_one_line_before_any_model_is_loaded(flags, words, run, tmp_path):
    code, out, err = run("a tent", "--model", "no such model", *flags)
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
