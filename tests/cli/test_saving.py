"""A disk that is full and a folder that vanishes: one line, exit code 1, nothing half-written, the rest stays."""

import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sd import StableDiffusion, metadata, preview
from mlx_sd.cli import making
from tests.support.effort import slow_but

pytestmark = pytest.mark.usefixtures("tiny_once")

SMALL = ("--steps", 1, "--width", 32, "--height", 32, "--seed", 5)


@pytest.fixture(autouse=True, scope="module")
def converted():
    """The embedded checkpoint, which is written to the cache at its first use."""
    StableDiffusion.load("tiny")


@contextmanager
def largest_file(size):
    """The system refuses to write more than so many bytes into a file, as it does where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def growing(tmp_path):
    """A file of prompts: a small picture, and a large one whose file is larger than 9000 bytes."""
    large = json.dumps({"prompt": "a house", "size": "128x128"})
    (tmp_path / "prompts.txt").write_text(f"a tent\n{large}\na moon\n")
    return "--prompts", "prompts.txt", *SMALL, "--output", "p/"


def test_a_full_disk_ends_the_run_in_one_line(run, growing, tmp_path):
    with largest_file(9000):
        code, out, err = run(*growing)
    assert (code, out, err.count("\n")) == (1, "p/a-tent-5.png\n", 1)
    assert "p/a-house-5.png cannot be written: File too large; nothing is left of it; 1 of 3 pictures is there" in err
    assert "; the same command makes only what is missing" in err
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["a-tent-5.png"]
    assert metadata.is_whole(tmp_path / "p/a-tent-5.png")
    assert run(*growing)[1].split() == ["p/a-house-5.png", "p/a-moon-5.png"]


@pytest.mark.slow
def test_what_was_made_before_is_in_the_json(run, growing, tmp_path):
    with largest_file(9000):
        code, out, _ = run(*growing, "--json")
    assert code == 1 and [record["output"] for record in json.loads(out)] == ["p/a-tent-5.png"]


@pytest.mark.parametrize(
    "flags", slow_but([("--animate",)], [("--preview", "steps"), ("--animate",), ("--animate", "film.gif")])
)
def test_step_images_and_animations_that_cannot_be_written_are_one_line(run, tmp_path, monkeypatch, flags):
    class Quick:
        full_size = False

        def __init__(self, sd, **options):
            pass

        def __call__(self, x):
            return [_noise()] * x.shape[0]

    monkeypatch.setattr(preview, "Preview", Quick)
    with largest_file(20000):
        code, out, err = run("a tent", *SMALL[:-4], "--height", 32, "--seed", 5, "--output", "a.png", *flags)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "cannot be written: File too large; nothing is left of it" in err
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {"a.png"}  # a picture that is whole stays, also where its animation fails


def _noise():
    """A picture whose file is larger than 20000 bytes."""
    return Image.fromarray(np.random.RandomState(0).randint(0, 255, (160, 160, 3), np.uint8))


@pytest.mark.slow
def test_a_folder_that_vanishes_ends_the_run_in_one_line(run, growing, tmp_path, monkeypatch):
    save = metadata.save

    def saved(image, path, settings, **options):
        if path.name == "a-house-5.png":
            shutil.rmtree(path.parent)
        save(image, path, settings, **options)

    monkeypatch.setattr(making.metadata, "save", saved)
    code, out, err = run(*growing)
    assert (code, out, err.count("\n")) == (1, "p/a-tent-5.png\n", 1)
    assert "p/a-house-5.png cannot be written: No such file or directory" in err
    assert not (tmp_path / "p").exists()


def test_a_folder_that_vanishes_between_two_pictures_is_noticed_too(run, growing, tmp_path, monkeypatch):
    add = making.Report.add

    def added(self, *arguments):
        add(self, *arguments)
        shutil.rmtree(tmp_path / "p")

    monkeypatch.setattr(making.Report, "add", added)
    code, out, err = run(*growing)
    assert (code, out, err.count("\n")) == (1, "p/a-tent-5.png\n", 1)
    assert "p/a-house-5.png cannot be written: No such file or directory" in err


def test_a_file_in_the_place_of_a_folder_is_one_line(run, tmp_path):
    Path("p").write_text("")
    for output in ("p/", "p/x/{seed}.png", "p/{seed}/a.png"):
        code, out, err = run("a tent", *SMALL, "--output", output)
        assert (code, out, err.count("\n")) == (2, "", 1) and "cannot be written (Not a directory)" in err
