"""Replaying a picture: what has changed since is an error, unless the user goes on; what was replaced is none."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
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


EARLIER = Path(__file__).parent.parent / "metadata" / "earlier"
SMALL = ("--width", 32, "--height", 32, "--seed", 1)


def _attention(file):
    """Writes an adapter of the embedded checkpoint."""
    unet = StableDiffusion.load("tiny", "float32").unet
    layers = ((diffusers_name("unet", unet.names, name), layer) for name, layer in unet.named_modules())
    chosen = [("unet", name, layer) for name, layer in layers if isinstance(layer, Linear) and "to_q" in name]
    adapters.save(
        file, adapters.kohya({(part, n): adapters.lora((part, n), layer.weight.shape) for part, n, layer in chosen})
    )


@pytest.mark.slow
def test_a_changed_input_is_an_error_that_allow_changed_passes(run, tmp_path):
    """The cases that need no checkpoint but the embedded one; `test_what_has_changed_...` has all of them."""
    _noise("in.png", 0)
    _half("mask.png", 0)
    _attention(tmp_path / "style.safetensors")
    flags = (*SMALL, "--steps", 2, "--init-image", "in.png", "--mask", "mask.png", "--lora", "style.safetensors:0.5")
    assert run("a tent", *flags, "--output", "a.png")[::2] == (0, "")
    names = ("init image", "mask", "LoRA")
    words = [CHANGES[name][1] for name in names]
    for name in names:
        CHANGES[name][0]()
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


@pytest.mark.slow
def test_what_a_line_of_prompts_replaces_has_not_changed(run, tmp_path):
    _noise("in.png", 0)
    _attention(tmp_path / "style.safetensors")
    flags = (*SMALL, "--steps", 2, "--init-image", "in.png", "--lora", "style.safetensors:0.5")
    assert run("a tent", *flags, "--output", "a.png")[::2] == (0, "")
    _noise("other.png", 2)
    _attention(tmp_path / "fine.safetensors")
    _noise("in.png", 1)
    _train(tmp_path / "style.safetensors")
    fine = {"path": "fine.safetensors", "scale": 0.5, "sha256": None}
    for line, words in (
        ({"init_image": "other.png", "loras": [fine]}, ()),
        ({"init_image": "other.png"}, ("style.safetensors",)),
        ({"loras": [fine]}, ("in.png",)),
    ):
        Path("lines.jsonl").write_text(json.dumps({"prompt": "a house", **line}))
        code, _, err = run("--from-image", "a.png", "--prompts", "lines.jsonl", "--output", "b.png", "--overwrite")
        assert code == (2 if words else 0) and err.count("is not the") == len(words)
        assert all(word in err for word in words)


def test_a_schedule_from_a_file_is_in_the_picture(run):
    """... so that the file may go."""
    Path("s.json").write_text('{"timesteps": [900, 400]}')
    assert run("a tent", *SMALL, "--schedule", "s.json", "--output", "a.png")[0] == 0
    assert metadata.read(Path("a.png"))["schedule"] == "timesteps=900,400"
    Path("s.json").unlink()
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


def test_an_image_that_is_gone_is_named_with_the_way_out(run):
    _noise("in.png", 0)
    assert run("a tent", *SMALL, "--steps", 2, "--init-image", "in.png", "--output", "a.png")[0] == 0
    Path("in.png").unlink()
    code, out, err = run("--from-image", "a.png", "--allow-changed", "--output", "b.png")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "in.png is no longer there, and the picture was made with it; --init-image names another" in err
    code, _, err = run("a tent", "--allow-changed")
    assert code == 2 and "--allow-changed is about the picture of --from-image" in err


def _foreign(file, text, size=(8, 8)):
    info = PngInfo()
    info.add_text("parameters", text)
    Image.new("RGB", size).save(file, pnginfo=info)


A1111 = """a (red:1.1) tent <lora:style:0.7>
Negative prompt: rain
Steps: 3, Sampler: DPM++ 2M Karras, CFG scale: 4, Seed: 11, Size: 40x64, Model: dreamy, Denoising strength: 0.7, \
Clip skip: 2, RNG: CPU, ENSD: 31337, Version: v1.6.0"""


@pytest.mark.slow
def test_a_picture_of_a1111_is_made_as_far_as_that_goes(run, tmp_path):
    """One line names what is left out; what the command line replaces is not in it."""
    _foreign("theirs.png", A1111)
    code, _, err = run("--from-image", "theirs.png", "--output", "a.png")
    assert code == 0 and err.count("\n") == 1 and err.startswith("mlx_sd.generate: theirs.png is of another program")
    for words in ("the image it began with", "the model dreamy", "ENSD 31337", "the LoRA style at 0.7"):
        assert words in err
    settings = metadata.read(Path("a.png"))
    expected = {"prompt": "a (red:1.1) tent", "negative": "rain", "steps": 3, "sampler": "dpmpp_2m", "guidance": 4.0}
    expected |= {"schedule": "karras", "seed": 11, "width": 40, "height": 64, "clip_skip": 1, "rng": "torch"}
    assert expected.items() <= settings.items() and settings["strength"] is None and settings["loras"] == []
    again = run("--from-image", "a.png", "--output", "b.png")  # ours by now
    assert again[::2] == (0, "") and Path("a.png").read_bytes() == Path("b.png").read_bytes()
    _noise("in.png", 0)
    _attention(tmp_path / "style.safetensors")
    flags = (
        "--init-image",
        "in.png",
        "--lora",
        "style.safetensors:0.7",
        "--model",
        "tiny",
        "--seed",
        5,
        "--clip-skip",
        0,
    )
    code, _, err = run("--from-image", "theirs.png", *flags, "--prompt", "a tent", "--output", "c.png")
    assert (code, err) == (
        0,
        "mlx_sd.generate: theirs.png is of another program; left out or different here: ENSD 31337\n",
    )
    settings = metadata.read(Path("c.png"))
    assert {"strength": 0.7, "width": 40, "height": 64, "seed": 5, "clip_skip": 0}.items() <= settings.items()


@pytest.mark.slow
def test_sdxl_has_no_clip_skip_in_a1111(run, original, shapes, tmp_path):
    """... whatever its texts say; a flag is taken."""
    families.write_folder("sdxl", shapes["sdxl"], tmp_path / "xl")
    _foreign("theirs.png", A1111)
    for model, flags, skip in (("xl", (), 0), ("xl", ("--clip-skip", 1), 1), (original, (), 1)):
        code, _, err = run(
            "--from-image", "theirs.png", "--model", model, *flags, "--output", f"{skip}.png", "--overwrite"
        )
        assert code == 0 and metadata.read(Path(f"{skip}.png"))["clip_skip"] == skip
        assert ("Clip skip" in err) == (model == original)


@pytest.mark.parametrize("name", slow_but(["karras"], ["karras", "reuse", "churn"]))
def test_pictures_of_an_earlier_version_are_made_again(run, name):
    """They were made by the version of cbcf6be."""
    assert run("--from-image", EARLIER / f"{name}.png", "--output", "again.png")[0] == 0
    with Image.open(EARLIER / f"{name}.png") as before, Image.open("again.png") as now:
        difference = np.abs(np.asarray(before, int) - np.asarray(now, int))
    assert difference.max() <= 1  # another processor may round otherwise


SILENT = {  # a text under "parameters" -> the words for it
    "": "does not say how it was made",
    "just a prompt": "does not say how it was made",
    "a tent\nSteps: many, Sampler: Euler, Seed: 1": "it says steps = 'many', which makes no sense",
    "a tent\nSteps: 3, Sampler: Euler, Seed: 1, CFG scale: nan, Size: 64x64": "it says guidance = nan",
    "a tent\nSteps: 5000, Sampler: Euler, Seed: 1, Model: x": "steps must be from 1 to 1000, not 5000",
}


@pytest.mark.parametrize("text", SILENT)
def test_a_picture_that_says_nothing_or_nonsense_is_one_line(run, tmp_path, text):
    _foreign("theirs.png", text)
    code, out, err = run("--from-image", "theirs.png")
    assert (code, out) == (2, "") and SILENT[text] in err and err.count("\n") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.png"]


def test_a_graph_of_comfyui_is_named(run):
    info = PngInfo()
    info.add_text("prompt", "{}")
    info.add_text("workflow", "{}")
    Image.new("RGB", (8, 8)).save("comfy.png", pnginfo=info)
    code, _, err = run("--from-image", "comfy.png")
    assert code == 2 and "comfy.png holds a graph of ComfyUI, which is not read" in err


def test_lossless_is_of_webp(run):
    flags = ("a tent", *SMALL, "--steps", 1)
    assert run(*flags, "--output", "a.png")[0] == run(*flags, "--lossless", "--output", "a.webp")[0] == 0
    with Image.open("a.png") as one, Image.open("a.webp") as other:
        assert one.tobytes() == other.tobytes()
    code, out, err = run(*flags, "--lossless", "--output", "a.jpg")
    assert (code, out) == (2, "") and "--lossless: a.jpg cannot be without loss; choose .webp or .png" in err


@pytest.mark.parametrize("suffix", slow_but([".jpg"], [".jpg", ".webp"]))
def test_a_jpeg_or_webp_replays_as_a_png_does(run, suffix):
    """The settings come back whole, and they make the same picture, bit for bit, before it is compressed."""
    flags = (*SMALL, "--steps", 2, "--sampler", "euler_ancestral")
    assert run("ein Zelt, 海", *flags, "--output", "a.png")[0] == 0
    with Image.open("a.png") as image:
        metadata.save(image, Path(f"a{suffix}"), metadata.read(Path("a.png")))
    assert run("--from-image", f"a{suffix}", "--output", "b.png")[::2] == (0, "")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
