"""Replaying a picture: what has changed since is an error, unless the user goes on; what was replaced is none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from convert.files.diffusers_names import diffusers_name
from mlx_sd import StableDiffusion, metadata
from mlx_sd.networks.layers import Linear
from tests.support import adapters, families, singles
from tests.support.effort import slow_but

FLAGS = ("--init-image", "in.png", "--mask", "mask.png", "--strength", 0.9, "--schedule", "steps.json", "--seed", 1)
FLAGS += ("--model", "model", "--refiner", "refiner", "--refine-at", 0.5, "--lora", "style.safetensors:0.5")


def _noise(file, seed):
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (32, 32, 3), np.uint8)).save(file)


def _half(file, side):
    values = np.zeros((32, 32), np.uint8)
    values[:, side * 16 : side * 16 + 16] = 255
    Image.fromarray(values).save(file)


def _train(file):
    """Changes the weights in a file, as another training would."""
    save_file({name: array * np.float32(1.01) for name, array in load_file(file).items()}, file, {"format": "pt"})


# What is changed -> how, and the words for it.
CHANGES = {
    "model": (
        lambda: _train(Path("model/unet/diffusion_pytorch_model.safetensors")),
        "model is not the weights that the picture was made with",
    ),
    "refiner": (
        lambda: _train(Path("refiner/unet/diffusion_pytorch_model.safetensors")),
        "refiner is not the weights that the picture was made with",
    ),
    "init image": (lambda: _noise("in.png", 1), "in.png is not the file that the picture was made with"),
    "mask": (lambda: _half("mask.png", 1), "mask.png is not the file that the picture was made with"),
    "LoRA": (
        lambda: _train(Path("style.safetensors")),
        "the LoRA style.safetensors is not the one the picture was made with",
    ),
}


SMALL = ("--width", 32, "--height", 32, "--seed", 1)


def _attention(file):
    """Writes an adapter of the embedded checkpoint."""
    unet = StableDiffusion.load("tiny", "float32").unet
    layers = ((diffusers_name("unet", unet.names, name), layer) for name, layer in unet.named_modules())
    chosen = [("unet", name, layer) for name, layer in layers if isinstance(layer, Linear) and "to_q" in name]
    adapters.save(
        file, adapters.kohya({(part, n): adapters.lora((part, n), layer.weight.shape) for part, n, layer in chosen})
    )


def test_a_changed_input_is_an_error_that_allow_changed_passes(run, tmp_path):
    """The cases that need no checkpoint but the embedded one; `test_what_has_changed_...` has all of them."""
    _noise("in.png", 0)
    _half("mask.png", 0)
    _attention(tmp_path / "style.safetensors")
    flags = (*SMALL, "--steps", 2, "--init-image", "in.png", "--mask", "mask.png", "--lora", "style.safetensors:0.5")
    assert run("a tent", *flags, "--output", "a.png")[::2] == (0, "")
    words = []
    for name in ("init image", "mask", "LoRA"):
        CHANGES[name][0]()
        words.append(CHANGES[name][1])
        code, out, err = run("--from-image", "a.png", "--output", "b.png")
        assert (code, out) == (2, "") and err.count("\n") == 1 and all(word in err for word in words)
        assert "--allow-changed makes another picture" in err and not Path("b.png").exists()
    code, _, err = run("--from-image", "a.png", "--output", "b.png", "--allow-changed")
    assert code == 0 and [line.removeprefix("mlx_sd.generate: ") for line in err.splitlines()] == words
    assert run("--from-image", "a.png", *flags[8:], "--output", "c.png")[::2] == (0, "")
    assert Path("c.png").read_bytes() == Path("b.png").read_bytes()
    with Image.open("c.png") as image:  # as if the model were another one by now
        metadata.save(image, Path("d.png"), metadata.read(Path("c.png")) | {"model_hash": "0" * 12})
    code, _, err = run("--from-image", "d.png", "--output", "e.png")
    assert code == 2 and "tiny is not the weights that the picture was made with; --allow-changed" in err
    assert run("--from-image", "d.png", "--model", "tiny", "--output", "e.png")[::2] == (0, "")


def test_a_schedule_from_a_file_is_in_the_picture(run):
    """... so that the file may change, or go."""
    Path("s.json").write_text('{"timesteps": [900, 400]}')
    assert run("a tent", *SMALL, "--schedule", "s.json", "--output", "a.png")[0] == 0
    assert metadata.read(Path("a.png"))["schedule"] == "timesteps=900,400"
    for change in (lambda: Path("s.json").write_text('{"timesteps": [500]}'), Path("s.json").unlink):
        change()
        assert run("--from-image", "a.png", "--output", "b.png")[::2] == (0, "")
        assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


@pytest.fixture
def picture(run, shapes, tmp_path):
    """A picture that was made with all of these, in the folder where they are."""
    families.write_folder("sdxl", shapes["sdxl"], tmp_path / "model")
    singles.refiner_folder(shapes, tmp_path / "refiner")
    factors = adapters.every_layer(shapes["sdxl"], pick=adapters.attention)
    adapters.save(tmp_path / "style.safetensors", adapters.kohya(factors))
    _noise("in.png", 0)
    _half("mask.png", 0)
    Path("steps.json").write_text('{"timesteps": [900, 600, 300, 100]}')
    assert run("a tent", *FLAGS, "--output", "a.png")[::2] == (0, "")
    return tmp_path / "a.png"


def _files():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.slow
def test_what_has_changed_is_named_before_any_work(run, picture):
    """... each thing, in one line, with exit code 2 and nothing written; --allow-changed prints the lines and goes on.

    A schedule from a file is in the picture itself, so that the file may change or go.
    """
    Path("steps.json").unlink()
    assert run("--from-image", "a.png", "--output", "b.png")[::2] == (0, "")
    assert metadata.read(Path("b.png")) == metadata.read(picture)
    assert Path("b.png").read_bytes() == picture.read_bytes()
    words = []
    for change, sentence in CHANGES.values():
        change()
        words.append(sentence)
        before = _files()
        code, out, err = run("--from-image", "a.png", "--output", "c.png")
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert sorted(w for w in (sentence for _, sentence in CHANGES.values()) if w in err) == sorted(words), err
        assert _files() == before
    code, _, err = run("--from-image", "a.png", "--output", "c.png", "--allow-changed")
    assert code == 0 and [line.removeprefix("mlx_sd.generate: ") for line in err.splitlines()] == words
    assert Path("c.png").read_bytes() != picture.read_bytes()
    again = run("--from-image", "c.png", "--output", "d.png")  # it records what it was made with
    assert again[::2] == (0, "") and Path("d.png").read_bytes() == Path("c.png").read_bytes()


@pytest.mark.slow
def test_what_the_user_replaces_has_not_changed(run, picture):
    for change, _ in CHANGES.values():
        change()
    replaced = FLAGS[:4] + FLAGS[10:]
    assert run("--from-image", "a.png", *replaced, "--output", "e.png")[::2] == (0, "")
    settings = metadata.read(Path("e.png"))
    assert settings["steps"] == 4 and settings["schedule"] == "timesteps=900,600,300,100"


@pytest.mark.parametrize("suffix", slow_but([".jpg"], [".jpg", ".webp"]))
def test_a_jpeg_or_webp_replays_as_a_png_does(run, suffix):
    """The settings come back whole, and they make the same picture, bit for bit, before it is compressed."""
    flags = (*SMALL, "--steps", 2, "--sampler", "euler_ancestral")
    assert run("ein Zelt, 海", *flags, "--output", "a.png")[0] == 0
    with Image.open("a.png") as image:
        metadata.save(image, Path(f"a{suffix}"), metadata.read(Path("a.png")))
    assert run("--from-image", f"a{suffix}", "--output", "b.png")[::2] == (0, "")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
