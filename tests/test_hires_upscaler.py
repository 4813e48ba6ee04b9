"""Hires fix by way of an x4 upscaler: the same as its three steps by hand, and refused before any work."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_sd import StableDiffusion, memory, metadata, request_model
from mlx_sd.completion import table_of
from mlx_sd.core.errors import InputError
from mlx_sd.metadata.from_a1111 import translate
from mlx_sd.metadata.to_a1111 import to_text
from mlx_sd.predictor import predictor_of
from mlx_sd.request import Request
from mlx_sd.sampling import loop, noise
from tests.conftest import GOLDENS
from tests.support import unprompted, upscalers

PROMPT, NEGATIVE = "a red tent", "rain"
OPTIONS = {"steps": 2, "guidance": 4.0, "seed": 2, "sampler": "euler", "width": 32, "height": 32}


@pytest.fixture(scope="module")
def x4(shapes, tmp_path_factory) -> Path:
    return upscalers.write(shapes, tmp_path_factory.mktemp("upscalers") / "x4")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Upscalers run two steps where nobody says how many."""
    for name in ("STEPS_UPSCALER", "STEPS_SUPER_RESOLUTION"):
        monkeypatch.setattr(f"mlx_sd.completion.{name}", 2)


def latents(sd, mode, prompt=PROMPT, **options):
    settings = {**OPTIONS, "hires": "2:2:0.6", "hires_mode": str(mode), "output": "latent", **options}
    return np.array(sd.generate(prompt, NEGATIVE, **settings).latents)


def second_pass(sd, picture, prompt=PROMPT, seed=2):
    """The second pass over a picture: two steps of strength 0.6, with the seed's noise anew."""
    image = sd.encode(picture)
    request = sd.complete(Request(**OPTIONS, prompt=prompt, negative=NEGATIVE))
    size = {"width": picture.width, "height": picture.height, "seed": seed}
    larger = request.with_values(**size, steps=3, strength=0.67)  # int(2 / 0.6) steps, of which the last two run
    table = table_of(sd.model, larger)
    assert len(table.rows) == 2
    unit = mx.array(noise.generator("numpy", seed)((4, *image.shape[1:3])).transpose(1, 2, 0)[None])
    predictor = predictor_of(sd.model, [larger], None, table)
    return np.array(loop.run(table, predictor, unit, lambda: unit, None, image))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_it_equals_picture_upscaler_and_second_pass_by_hand(scale, x4, family):
    sd, upscaler = family("sd1"), StableDiffusion.load(x4, dtype="float32")
    small = sd.generate(PROMPT, NEGATIVE, **OPTIONS).images[0]
    large = upscaler.generate(PROMPT, NEGATIVE, image=small, seed=2).images[0]
    assert large.size == (128, 128)
    fitted = large.resize((32 * scale, 32 * scale), Image.Resampling.LANCZOS)
    expected = second_pass(sd, fitted)
    result = latents(sd, x4, hires=f"{scale}:2:0.6")
    assert np.abs(result - expected).max() <= 1e-4 * np.abs(expected).max()
    lanczos = latents(sd, "lanczos", hires=f"{scale}:2:0.6")
    assert np.abs(result - lanczos).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.slow
def test_a_batch_makes_the_pictures_that_each_makes_alone(x4, family):
    together = latents(family("sd1"), x4, ["a moon", "a tent"], batch=2)
    for i, prompt in enumerate(("a moon", "a tent")):
        alone = latents(family("sd1"), x4, prompt)[0]
        assert np.abs(together[i] - alone).max() <= 1e-4 * np.abs(alone).max()


@pytest.mark.slow
def test_super_resolution_without_a_prompt_enlarges_too(family, tmp_path):
    shapes = json.loads((GOLDENS / "unprompted.json").read_text(encoding="utf-8"))["ldm_sr"]
    folder = unprompted.write_folder("ldm_sr", shapes, tmp_path / "ldm")
    assert np.isfinite(latents(family("sd1"), folder)).all()


@pytest.mark.slow
def test_it_is_loaded_once(x4, family, monkeypatch):
    sd = family("sd1")
    latents(sd, x4)
    monkeypatch.setattr("mlx_sd.hires_upscaler.load", lambda *_: pytest.fail("it is loaded again"))
    latents(sd, x4, seed=3)


@pytest.mark.slow
def test_pictures_record_it_and_are_made_again(x4, original, run, shapes, tmp_path):
    flags = [PROMPT, "--model", original, "--dtype", "float32", "--steps", 2, "--size", "32x32", "--seed", 1]
    flags += ["--hires", "2:2", "--hires-mode", x4]
    assert run(*flags, "--output", "a.png")[0] == 0
    recorded = metadata.read(Path("a.png"))
    assert recorded["hires_mode"] == str(x4)
    assert recorded["hires_hash"] == StableDiffusion.load(x4, dtype="float32").model.hash
    code, _, err = run("--from-image", "a.png", "--output", "b.png")
    assert code == 0, err
    one, two = (np.asarray(Image.open(name)) for name in ("a.png", "b.png"))
    assert one.shape == (64, 64, 3) and (one == two).all()
    changed = upscalers.write(shapes, tmp_path / "x4-other", text_encoder={})
    weights = changed / "unet" / "diffusion_pytorch_model.safetensors"
    arrays = mx.load(str(weights))
    mx.save_safetensors(str(weights), {name: array * 1.01 for name, array in arrays.items()}, {"format": "pt"})
    aside = x4.with_name("aside")
    x4.rename(aside)
    changed.rename(x4)
    try:
        code, _, err = run("--from-image", "a.png", "--output", "c.png")
        assert code == 2 and "is not the weights that the picture was made with" in err and err.count("\n") == 1
        assert run("--from-image", "a.png", "--output", "c.png", "--allow-changed")[0] == 0
        assert run("--from-image", "a.png", "--hires-mode", "lanczos", "--output", "d.png")[0] == 0
    finally:
        x4.rename(changed)
        aside.rename(x4)


def test_what_is_no_upscaler_is_refused_before_the_model_is_loaded(original, run, monkeypatch):
    monkeypatch.setattr(request_model, "load", lambda *_: pytest.fail("the model is loaded"))
    for mode, words in (
        (original, "is no x4 upscaler; name one"),
        ("nowhere/x4.safetensors", "nowhere/x4.safetensors"),
        ("sharp", "unknown --hires-mode 'sharp'"),
        ("latnet", "did you mean 'latent'?"),
    ):
        code, out, err = run(PROMPT, "--hires", 2, "--hires-mode", mode)
        assert code == 2 and words in err and err.count("\n") == 1 and not out, err


def test_the_mode_needs_the_second_pass(x4, family):
    with pytest.raises(InputError, match="give both"):
        family("sd1").generate(PROMPT, **OPTIONS, hires_mode=str(x4))


@pytest.mark.filterwarnings("ignore:the networks of")  # said where the upscaler is loaded by this test
def test_too_little_memory_is_said_before_any_work(x4, family, monkeypatch):
    sd = family("sd1")
    own = memory.needed(sd.model, 64, 64) + 1
    monkeypatch.setattr(memory, "available", lambda: own)
    monkeypatch.setattr("mlx_sd.generation._run", lambda *_: pytest.fail("it works"))
    with pytest.raises(InputError, match="or another --hires-mode"):
        latents(sd, x4)


def test_a1111_s_text_names_it():
    settings = {"prompt": "a", "prompt_style": "a1111", "steps": 4, "sampler": "euler", "schedule": "karras"}
    settings |= {"guidance": 5.0, "seed": 1, "width": 64, "height": 64, "model": "x"}
    text = to_text(settings | {"hires": "2:15:0.5", "hires_mode": "models/x4.safetensors"})
    assert "Hires upscaler: x4," in text
    translated = translate(text)
    assert "hires" not in translated.settings and any("hires fix" in remark.text for remark in translated.remarks)
