"""Images edited by instruction: three rows for each picture, the image in two of them, and two scales of guidance."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from convert import __main__ as command
from coreml import __main__ as export
from coreml import drive
from mlx_sd import DeepCache, FreeU, StableDiffusion, metadata, request
from mlx_sd.core.errors import InputError
from mlx_sd.metadata.from_a1111 import translate
from mlx_sd.metadata.to_a1111 import to_text
from mlx_sd.networks.family import Task
from mlx_sd.sampling import noise
from mlx_sd.tasks import instruction
from tests.support import autoencoders, families, instructions, singles
from tests.support.effort import slow_but

PROMPT, NEGATIVE = "make it a moon", "rain"
OPTIONS = {"steps": 4, "guidance": 4.0, "image_guidance": 2.0, "seed": 2, "sampler": "euler", "output": "latent"}
NAMES = ("sd1", "sdxl", "cosxl")


@pytest.fixture(scope="module")
def place(shapes, tmp_path_factory):
    """place("sd1") is that kind's diffusers folder, written once."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = instructions.write(shapes, tmp_path_factory.mktemp("edits") / name, name)
        return folders[name]

    return folder


@pytest.fixture(scope="module")
def load(place):
    models = {}

    def loaded(name):
        if name not in models:
            models[name] = StableDiffusion.load(place(name), dtype="float32")
        return models[name]

    return loaded


@pytest.fixture(params=slow_but(["sd1"], NAMES))
def sd(request, load):
    return load(request.param)


def edited(sd, prompt=PROMPT, **options):
    settings = {"image": instructions.picture(), "negative": NEGATIVE, **OPTIONS, **options}
    return sd.generate(prompt, **settings)


def latents(sd, prompt=PROMPT, **options):
    return np.array(edited(sd, prompt, **options).latents)


def close(one, other, limit=1e-5):
    return np.abs(one - other).max() <= limit * np.abs(other).max()


# ------------------------------------------------------------------------------------------------ rows and scales


def test_an_evaluation_is_the_formula_over_three_calls_of_the_network(sd):
    """Brooks et al. 2023, eq. 3: e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, T) - e(I, 0))."""
    completed = edited(sd).requests[0]
    scale = 1.0 if sd.model.image_factor == 1 else 1 / sd.vae.config.scaling_factor
    image = sd.encode(instructions.picture()) * scale
    x, t = mx.array(families.numbers("x", *image.shape)), 400.0
    prediction = sd.predictor([completed], channels=image)(x, t)

    def call(text, shown):
        context, pooled = sd.encode_prompt(text)
        keywords = {}
        if pooled is not None:
            size = [48.0, 64.0]
            keywords = {"text_embeds": pooled, "time_ids": mx.array([[*size, 0, 0, *size]])}
        return sd.unet(mx.concatenate([x, shown], axis=-1), mx.array(t), context, **keywords)[0]

    nothing, shown = call(NEGATIVE, mx.zeros_like(image)), call(NEGATIVE, image)
    expected = nothing + 2.0 * (shown - nothing) + 4.0 * (call(PROMPT, image) - shown)
    assert families.distance(prediction, expected) < 1e-5


@pytest.mark.slow
def test_the_image_is_shown_unscaled_and_cosxl_edit_sees_it_scaled(load):
    assert load("sd1").model.image_factor == pytest.approx(1 / 0.18215)
    assert load("sdxl").model.image_factor == pytest.approx(1 / load("sdxl").vae.config.scaling_factor)
    assert load("cosxl").model.image_factor == 1.0


def test_a_tiny_autoencoder_shows_latents_of_the_checkpoint_s_scale(place, load, tmp_path):
    tiny = StableDiffusion.load(place("sd1"), dtype="float32", vae=autoencoders.write_folder(tmp_path / "tiny"))
    assert tiny.vae.config.scaling_factor == 1 and tiny.model.image_factor == load("sd1").model.image_factor
    shown = tiny.encode(instructions.picture()) / 0.18215
    assert close(latents(tiny, image=None, channels=shown, width=64, height=48), latents(tiny))


def test_a_scale_of_one_is_no_guidance_of_the_image(sd):
    """Two rows then do for three: both with the image."""
    three = latents(sd, image_guidance=1.0 + 1e-6)
    assert close(latents(sd, image_guidance=1.0), three, 1e-4)
    assert not close(latents(sd, image_guidance=2.0), three, 1e-2)


def test_without_guidance_the_scale_of_the_image_changes_nothing(sd):
    one, other = (latents(sd, guidance=1.0, image_guidance=scale) for scale in (1.5, 6.0))
    assert (one == other).all()


@pytest.mark.slow
def test_both_scales_the_prompts_and_the_image_decide(sd):
    plain = latents(sd)
    changes = [{"image_guidance": 4.0}, {"guidance": 6.0}, {"negative": "grass"}]
    changes += [{"image": instructions.picture().transpose(0)}, {"prompt": "make it a tent"}]
    for change in changes:
        assert not close(latents(sd, **change), plain, 1e-2), change


def test_the_defaults_are_recorded(sd):
    completed = edited(sd, image_guidance=None, guidance=None).requests[0]
    assert completed.image_guidance == 1.5 and completed.strength is None
    assert completed.guidance == (5.0 if sd.model.zeros_for_empty else 7.5)
    assert (completed.width, completed.height) == (64, 48)


# ------------------------------------------------------------------------------------------------ start


def test_sampling_begins_with_the_seed_s_noise_alone(sd):
    factor = sd.vae.config.downsampling
    unit = noise.generator("numpy", 2)((4, 48 // factor, 64 // factor)).transpose(1, 2, 0)
    assert (latents(sd) == latents(sd, latents=mx.array(unit[None]))).all()


def test_channels_are_the_other_way_to_show_the_image(sd):
    shown = sd.encode(instructions.picture()) * sd.model.image_factor
    by_channels = latents(sd, image=None, channels=shown, width=64, height=48)
    assert (by_channels == latents(sd)).all()


def test_a_size_fits_the_image(sd):
    factor = sd.vae.config.downsampling
    assert edited(sd, width=96).latents.shape[1:3] == (72 // factor, 96 // factor)
    assert edited(sd, image=instructions.picture((67, 51))).requests[0].width == round(67 / factor) * factor


# ------------------------------------------------------------------------------------------------ what goes together


def test_a_batch_makes_the_pictures_that_each_makes_alone(sd):
    together = latents(sd, ["a moon", "a tent"], batch=2)
    for i, prompt in enumerate(("a moon", "a tent")):
        assert close(together[i], latents(sd, prompt)[0])
    seeds = latents(sd, count=2, batch=2)
    assert close(seeds[1], latents(sd, seed=3)[0])


def test_a_cached_evaluation_equals_a_full_one(sd):
    """All three rows are kept: on the same inputs the outer level gives the same prediction, bit for bit."""
    result = edited(sd, deepcache=DeepCache(3), steps=9)
    assert result.full == 3 and result.evaluations == 9
    completed = result.requests[0]
    image = sd.encode(instructions.picture()) * sd.model.image_factor
    predictor = sd.predictor([completed], channels=image)
    x = mx.array(families.numbers("x", *image.shape))
    full, cached = predictor(x, 400.0), predictor(x, 400.0)
    assert predictor.full == 1 and mx.array_equal(full, cached)


@pytest.mark.slow
def test_freeu_and_tiles_work(sd):
    plain = latents(sd)
    assert not close(latents(sd, freeu=FreeU(1.5, 1.6, 0.9, 0.2)), plain, 1e-3)
    tiled = latents(sd, denoise_tile=2 * sd.unet.config.downsampling, width=128)
    assert np.isfinite(tiled).all() and tiled.shape == latents(sd, width=128).shape


@pytest.mark.slow
def test_a_refiner_goes_on_without_the_image(load, shapes, tmp_path):
    refiner = StableDiffusion.load(singles.refiner_folder(shapes, tmp_path / "refiner"), dtype="float32")
    result = latents(load("sdxl"), refiner=refiner, refine_at=0.5)
    assert np.isfinite(result).all() and not close(result, latents(load("sdxl")), 1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": None}, "edits an image by an instruction, its prompt; give it one"),
        ({"image_guidance": 0.5}, "image guidance must be from 1 up, not 0.5"),
        ({"strength": 0.5}, "without --strength: all steps run"),
        ({"mask": instructions.picture()}, "without --mask: the whole image is edited"),
        ({"only_masked": True}, "without --only-masked"),
        ({"extend": "left=8"}, "without --extend"),
        ({"hires": 2}, "without --hires"),
        ({"pag": 3.0}, "without --pag"),
        ({"tgate": 2}, "without --tgate: it ends guidance at its gate"),
        ({"speed": "fast"}, "without --speed"),
        ({"controls": [("x", "y.png")]}, "without --control"),
        ({"adapters": [("x", "y.png")]}, "without --adapter"),
        ({"prompt": "a moon AND a tent"}, "by one instruction, so AND has no meaning"),
        ({"noise_level": 20}, "the noise level is of x4 upscalers"),
        ({"channels": mx.zeros((1, 6, 8, 4))}, "give an image or channels, not both"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message, load):
    with pytest.raises(InputError, match=message):
        edited(load("sd1"), **settings)


def test_other_checkpoints_refuse_the_scale_of_the_image(family):
    with pytest.raises(InputError, match="edit images by instruction"):
        family("sd1").generate("a", image=instructions.picture(), image_guidance=2.0)


def test_every_refusal_is_of_a_setting():
    assert instruction.REFUSED.keys() <= request.SETTINGS.keys()


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", slow_but(["sd1"], ["sd1", "sdxl"]))
def test_a_single_file_is_told_by_its_eight_channels(name, shapes, place, load, tokenizer, tmp_path):
    configs, weights = singles.parts(name, shapes)
    folder = place(name)
    weights["unet"] = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(singles.arrays(name, configs, weights), tmp_path / "edit.safetensors")
    flags = ["--model", tmp_path / "edit.safetensors", "--tokenizer", tokenizer, "--out", tmp_path / "model"]
    assert command.main(list(map(str, flags))) == 0
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    assert about["pipeline"]["_class_name"] == instructions.PIPELINES[name]["_class_name"]
    sd = StableDiffusion.load(tmp_path / "model", dtype="float32")
    assert sd.model.task is Task.INSTRUCTION and sd.model.image_factor == pytest.approx(
        1 / sd.vae.config.scaling_factor
    )
    assert mx.array_equal(sd.unet.down.stages[0][0].weight, load(name).unet.down.stages[0][0].weight)
    assert np.isfinite(latents(sd)).all()


@pytest.mark.slow
def test_cosxl_edit_is_told_from_a_single_file(shapes, place, tokenizer, tmp_path):
    configs, weights = singles.parts("sdxl", shapes)
    weights["unet"] = load_file(place("sdxl") / "unet" / "diffusion_pytorch_model.safetensors")
    sigmas = {f"edm_vpred.sigma_{end}": np.array(value, np.float32) for end, value in (("max", 120.0), ("min", 0.002))}
    save_file(singles.arrays("sdxl", configs, weights) | sigmas, tmp_path / "edit.safetensors")
    flags = ["--model", tmp_path / "edit.safetensors", "--tokenizer", tokenizer, "--out", tmp_path / "model"]
    assert command.main(list(map(str, flags))) == 0
    sd = StableDiffusion.load(tmp_path / "model", dtype="float32")
    assert sd.model.task is Task.INSTRUCTION and sd.model.image_factor == 1
    assert np.isfinite(np.array(edited(sd, sampler=None).latents)).all()


def test_pictures_record_the_scale_and_are_made_again(place, run):
    instructions.picture().save("in.png")
    common = ["--model", place("sd1"), "--dtype", "float32", "--init-image", "in.png", "--steps", 2]
    assert run(PROMPT, *common, "--image-cfg-scale", 2.5, "--seed", 1, "--output", "a.png")[0] == 0
    code, _, err = run("--from-image", "a.png", "--output", "b.png")
    assert code == 0, err
    one, two = (np.asarray(Image.open(name)) for name in ("a.png", "b.png"))
    assert (one == two).all() and metadata.read(Path("a.png"))["image_guidance"] == 2.5


def test_the_command_line_refuses_before_it_loads(place, run, monkeypatch):
    instructions.picture().save("in.png")
    monkeypatch.setattr("mlx_sd.request_model.load", lambda *_: pytest.fail("the model is loaded"))
    with_image = ["--model", place("sd1"), "--init-image", "in.png"]
    for flags, words in (
        (["--model", place("sd1")], "give it one (--init-image)"),
        ([*with_image, "--strength", 0.5], "without --strength"),
        (["--init-image", "in.png", "--image-guidance", 2], "tiny is none"),
    ):
        code, out, err = run(PROMPT, *flags)
        assert code == 2 and words in err and err.count("\n") == 1 and not out, err


@pytest.mark.slow
def test_core_ml_packages_edit_as_the_model_does(place, load, tmp_path):
    flags = ["--model", place("sd1"), "--out", tmp_path / "out", "--dtype", "float32", "--width", 64, "--height", 64]
    assert export.main(list(map(str, flags))) == 0
    packaged = StableDiffusion(drive.load(tmp_path / "out"))
    settings = {"steps": 2, "image": instructions.picture((64, 64))}
    assert close(latents(packaged, **settings), latents(load("sd1"), **settings), 1e-2)


SETTINGS = {"prompt": "a", "prompt_style": "a1111", "steps": 4, "sampler": "euler", "schedule": "karras"}
SETTINGS |= {"guidance": 5.0, "seed": 1, "width": 64, "height": 64, "model": "x"}


def test_a1111_knows_the_scale():
    text = to_text(SETTINGS | {"image_guidance": 2.5})
    assert "CFG scale: 5, Image CFG scale: 2.5, Seed: 1" in text
    assert translate(text).settings["image_guidance"] == 2.5
    assert "image_guidance" not in translate(to_text(SETTINGS)).settings


def test_what_a1111_does_otherwise_is_remarked():
    text = (
        "a\nSteps: 4, Sampler: Euler a, CFG scale: 5, Image CFG scale: {}, Seed: 1, Size: 64x64, Denoising strength: {}"
    )
    low = translate(text.format(0.5, 1))
    assert "image_guidance" not in low.settings and any("Image CFG scale 0.5" in remark.text for remark in low.remarks)
    partly = translate(text.format(1.5, 0.75))
    assert "strength" not in partly.settings and any("0.75" in remark.text for remark in partly.remarks)
