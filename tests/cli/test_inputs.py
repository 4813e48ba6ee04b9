"""What a command reads is never replaced by what it writes, by whatever name or link."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sd import Request, StableDiffusion, metadata

pytestmark = pytest.mark.usefixtures("tiny_once")

FAST = ("--steps", 2, "--width", 32, "--height", 32, "--seed", 0)


def _photo(path):
    Image.fromarray(np.random.RandomState(1).randint(0, 255, (32, 32, 3), np.uint8)).save(path)


@pytest.fixture
def files(run, tmp_path):
    """run(...), in a folder with one file of each kind of input."""
    for name in ("photo.png", "mask.png", "photo-001.png", "film-steps.png"):
        _photo(tmp_path / name)
    metadata.save(Image.new("RGB", (32, 32)), tmp_path / "earlier.png", Request(prompt="a house").to_json())
    (tmp_path / "prompts.png").write_text("a tent\n")  # names do not make files
    (tmp_path / "schedule.json").write_text('{"timesteps": [900, 400]}')
    os.link("photo.png", "hard.png")
    os.link("schedule.json", "schedule.png")
    (tmp_path / "soft.png").symlink_to("photo.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "way").symlink_to("folder")
    _photo(tmp_path / "folder" / "inside.png")
    return run


IMAGE = ("--init-image", "photo.png")
CASES = {
    "image": ((*IMAGE, "--output", "photo.png"), "--output photo.png would overwrite --init-image photo.png"),
    "another path": ((*IMAGE, "--output", "./folder/../photo.png"), "would overwrite --init-image photo.png"),
    "hard link": ((*IMAGE, "--output", "hard.png"), "--output hard.png would overwrite --init-image photo.png"),
    "soft link": ((*IMAGE, "--output", "soft.png"), "--output soft.png would overwrite --init-image photo.png"),
    "link is read": (("--init-image", "soft.png", "--output", "photo.png"), "would overwrite --init-image soft.png"),
    "overwrite": ((*IMAGE, "--output", "photo.png", "--overwrite"), "would overwrite --init-image photo.png"),
    "mask": ((*IMAGE, "--mask", "mask.png", "--output", "mask.png"), "would overwrite --mask mask.png"),
    "replay": (("--from-image", "earlier.png", "--output", "earlier.png"), "would overwrite --from-image earlier.png"),
    "prompts": (("--prompts", "prompts.png", "--output", "prompts.png"), "would overwrite --prompts prompts.png"),
    "schedule": (("--schedule", "schedule.json", "--output", "schedule.png"), "overwrite --schedule schedule.json"),
    "adapter's folder": (
        ("--lora", "folder", "--output", "way/inside.png"),
        "would overwrite --lora folder/inside.png",
    ),
    "pattern": (("--init-image", "mask.png", "--output", "{prompt}.png"), "would overwrite --init-image mask.png"),
    "several": ((*IMAGE, "--count", 2, "--output", "several.png"), "would overwrite --init-image several-1.png"),
    "animation": ((*IMAGE, "--animate", "photo.png", "--output", "a.png"), "--animate photo.png would overwrite"),
    "beside": (
        ("--init-image", "film-steps.png", "--animate", "--output", "film.png"),
        "--animate film-steps.png would",
    ),
    "steps": (
        ("--init-image", "photo-001.png", "--preview", ".", "--output", "photo.png", "--overwrite"),
        "--preview photo-001.png would overwrite --init-image photo-001.png",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_input_is_not_overwritten(files, tmp_path, name, monkeypatch):
    """... which is noticed before anything is loaded."""
    arguments, message = CASES[name]
    if name == "several":
        Path("photo.png").rename("several-1.png")
        arguments = ("--init-image", "several-1.png", *arguments[2:])
    prompt = ("mask",) if name == "pattern" else () if arguments[0] in ("--from-image", "--prompts") else ("a tent",)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr("mlx_sd.cli.models.load", lambda *_: pytest.fail("too late"))
    code, out, err = files(*prompt, *FAST, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err, err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_names_chosen_here_go_on_numbering(files, tmp_path):
    for name in ("a-tent-0.png", "a-tent-0.2.png"):
        _photo(tmp_path / name)
    before = Path("a-tent-0.png").read_bytes()
    flags = ("a tent", "--init-image", "a-tent-0.png", "--steps", 2, "--seed", 0)
    assert files(*flags)[1] == "a-tent-0.3.png\n"
    assert files(*flags, "--output", "./")[1] == "a-tent-0.4.png\n"
    _photo(tmp_path / "a-tent-1-steps.png")
    assert files("a tent", *FAST[:-1], 1, "--animate")[1] == "a-tent-1.2.png\n"
    assert Path("a-tent-0.png").read_bytes() == before


@pytest.mark.parametrize("flag", ["--init-image", "--mask"])
def test_an_image_that_is_none_is_named_before_the_model_is_loaded(run, tmp_path, monkeypatch, flag):
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    (tmp_path / "text.png").write_text("no picture")
    monkeypatch.setattr(StableDiffusion, "load", lambda *_, **__: pytest.fail("loaded"))
    for name, words in (("gone.png", "gone.png does not exist"), ("text.png", "text.png is not a picture")):
        code, _, err = run("a tent", "--init-image", "photo.png", flag, name)
        assert code == 2 and words in err and err.count("\n") == 1
