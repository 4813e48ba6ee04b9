"""Models that take no prompt: denoising diffusion on pixels, latent diffusion with a VQ autoencoder, classes."""

import json

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from convert import __main__ as command
from coreml import __main__ as coreml
from mlx_sd import DeepCache, StableDiffusion, TGate, metadata
from mlx_sd.cli import generate
from mlx_sd.codec import to_image
from mlx_sd.core.errors import InputError
from mlx_sd.networks.vae import Pixels
from mlx_sd.preview import Preview
from tests.support import families, unprompted
from tests.support.families import distance
from tests.support.unprompted import FAMILIES, UNETS

NETWORK, PICTURES = 1e-5, 1e-4


@pytest.fixture(scope="module")
def folders(folder):
    """folders("ddpm") is that family's diffusers folder, to be read."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = unprompted.write_folder(name, unprompted.shapes()[name], folder / name)
        return made[name]

    return get


@pytest.fixture(scope="module")
def model(folders):
    """model("ddpm") is that family's checkpoint, loaded; made once."""
    made = {}

    def load(name):
        if name not in made:
            made[name] = StableDiffusion.load(folders(name), dtype="float32")
        return made[name]

    return load


@pytest.mark.parametrize("name", unprompted.WITHOUT_CONDITION)
def test_pipelines_agree(name, model):
    sd = model(name)
    made = sd.generate(count=2, batch=2, seed=families.SEED, steps=5)
    assert distance((sd.decode(made.latents) + 1) / 2, unprompted.goldens()[f"pictures/{name}"]) <= PICTURES
    for image, wanted in zip(made.images, unprompted.goldens()[f"pictures/{name}"], strict=True):
        assert np.abs(np.asarray(image) / 255.0 - wanted).max() <= 0.51 / 255
    assert [request.subject for request in made.requests] == [None, None] and made.prompts == []


def test_guidance_steers_away_from_the_null_class(model):
    settings = {"latents": mx.array(unprompted.noise()), "batch": 2, "steps": 10, "guidance": 3.0, "output": "latent"}
    made = model("classes").generate(classes=["Goldfish", 4], **settings, seed=0)
    assert distance(made.latents, unprompted.goldens()["guided"]) <= PICTURES
    assert [request.subject for request in made.requests] == [1, 4]
    alone = model("classes").generate(classes=4, **settings | {"latents": settings["latents"][1:]}, seed=0)
    assert distance(alone.latents, made.latents[1:]) <= 1e-5


@pytest.mark.filterwarnings("ignore:in 4 evaluations little repeats itself")
@pytest.mark.parametrize("name", (*unprompted.WITHOUT_CONDITION, "classes"))
def test_deepcache_at_interval_one_changes_nothing_and_at_two_halves_the_work(name, model):
    how = {"classes": 3} if name == "classes" else {}
    plain, every, second = (
        model(name).generate(steps=4, deepcache=policy, output="latent", **how, seed=0)
        for policy in (None, DeepCache(1, 2), DeepCache(2, 2))
    )
    assert mx.array_equal(plain.latents, every.latents)
    assert not mx.array_equal(plain.latents, second.latents)
    assert (second.full, second.evaluations) == (2, 4)


def test_pixels_need_no_autoencoder_and_stay_in_range(model):
    sd = model("ddpm")
    made = sd.generate(steps=3, seed=0)
    assert made.images[0].size == (16, 16)
    assert mx.array_equal(sd.decode(made.latents), mx.clip(made.latents, -1, 1))
    assert distance(sd.encode(made.images[0]), mx.clip(made.latents, -1, 1)) <= 0.51 / 127.5


def test_grey_pictures_have_one_channel():
    assert to_image(mx.zeros((2, 3, 1))).mode == "L" and to_image(mx.zeros((2, 3, 3))).mode == "RGB"
    with pytest.raises(InputError, match="images of 1 channels, not of 3"):
        Pixels(1, 16).encode(mx.zeros((1, 4, 4, 3)))


def test_a_preview_of_pixels_is_the_estimate_itself(model):
    seen = []
    model("ddpm").generate(steps=1, callback=lambda *given: seen.append(given[2]), seed=0)
    (shown,) = Preview(model("ddpm"))(seen[0])
    assert np.abs(np.asarray(shown, np.int64) - np.asarray(to_image(mx.clip(seen[0][0], -1, 1)), np.int64)).max() <= 1


def test_the_first_checkpoints_lie_flat_in_their_folder(model, tmp_path):
    folder = unprompted.write_folder("ddpm", unprompted.shapes()["ddpm"], tmp_path / "flat", flat=True)
    assert not (folder / "unet").exists()
    flat = StableDiffusion.load(folder, dtype="float32").generate(steps=2, output="latent", seed=0)
    assert mx.array_equal(flat.latents, model("ddpm").generate(steps=2, output="latent", seed=0).latents)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_round_trip_is_the_identity(name, folders, tmp_path, capsys):
    folder = folders(name)
    assert command.main(["--model", str(folder), "--out", str(tmp_path / "model")]) == 0
    assert command.main(["--verify", str(tmp_path / "model")]) == 0
    assert command.main(["--model", str(tmp_path / "model"), "--to", "diffusers", "--out", str(tmp_path / "back")]) == 0
    capsys.readouterr()
    index, before = (json.loads((f / "model_index.json").read_text()) for f in (tmp_path / "back", folder))
    assert {k: v for k, v in index.items() if k != "_diffusers_version"} == before
    for place in unprompted.networks(name):
        file = f"{place}/diffusion_pytorch_model.safetensors"
        there, here = load_file(folder / file), load_file(tmp_path / "back" / file)
        assert there.keys() == here.keys()
        assert all(np.array_equal(there[key], here[key]) for key in there)
        assert json.loads((tmp_path / "back" / place / "config.json").read_text()) == FAMILIES[name][place]


def test_attention_saved_by_older_versions_is_read(model, tmp_path):
    folder = unprompted.write_folder("ddpm", unprompted.shapes()["ddpm"], tmp_path / "old")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def name(key):
        for new, before in old.items():
            key = key.replace(f".{new}.", f".{before}.")
        return key

    renamed = {name(key): array for key, array in load_file(file).items()}
    assert any(".query." in key for key in renamed)
    save_file(renamed, file)
    found = StableDiffusion.load(folder, dtype="float32").generate(steps=2, output="latent", seed=0)
    assert mx.array_equal(found.latents, model("ddpm").generate(steps=2, output="latent", seed=0).latents)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("ddpm", {"prompt": "a tent"}, "this model takes no prompt"),
        ("ddpm", {"classes": 1}, "this model has no classes"),
        ("ddpm", {"guidance": 2.0}, "guidance is at most 1, not 2.0"),
        ("ddpm", {"width": 18}, "width must be a positive multiple of 4, not 18"),
        ("ddpm", {"negative": "dark"}, "takes no prompt, and no negative one"),
        ("ddpm", {"clip_skip": 1}, "clip skip must be from 0 to 0"),
        ("ddpm", {"deepcache": DeepCache(2, 9)}, "no DeepCache branch 9 in this UNet; it has 0 to 8"),
        ("classes", {}, "give a class .--class ID., from 0 to 10, 10 being none"),
        ("classes", {"prompt": "a tent"}, "this model takes no prompt; give a class"),
        ("classes", {"classes": 11}, "no class 11 in this model; give one from 0 to 10, 10 being none"),
        ("classes", {"classes": -1}, "no class -1"),
        ("classes", {"classes": "shark"}, "no class 'shark'; give one from 0 to 10"),
    ],
)
def test_what_a_model_cannot_do_is_said_at_once(name, asked, message, model):
    with pytest.raises(InputError, match=message):
        model(name).generate(steps=2, **asked, seed=0)


def test_a_model_of_prompts_has_no_classes(family):
    with pytest.raises(InputError, match="this model has no classes; give a prompt"):
        family("sd1").generate(classes=1, seed=0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ddpm", {"_class_name": "AudioDiffusionPipeline"}, "AudioDiffusionPipeline is for sound"),
        ("ldm", {"_class_name": "LDMTextToImagePipeline"}, "is for pictures from a prompt, by a text encoder"),
        ("ddpm", {"_class_name": "StableDiffusionPipeline"}, "no vae, so this is not"),
        ("classes", {"null_class": 11}, "null_class = 11 is no class; there are 0 to 10"),
        ("classes", {"id2label": {"x": "cat"}}, "id2label must be an object from ids of classes to their names"),
    ],
)
def test_checkpoints_for_other_tasks_are_refused(name, changes, message, tmp_path):
    folder = unprompted.write_folder(name, unprompted.shapes()[name], tmp_path / "other", **changes)
    with pytest.raises(InputError, match=message):
        StableDiffusion.load(folder)


def test_a_context_is_for_networks_with_a_prompt_only(model, family):
    inputs = unprompted.arrays(unprompted.unet_inputs(UNETS["ddpm"]))
    with pytest.raises(InputError, match="takes no context"):
        model("ddpm").unet(**inputs, context=mx.zeros((2, 7, 32)))
    with pytest.raises(InputError, match="takes a context"):
        family("sd1").unet(mx.zeros((1, 8, 8, 4)), mx.array(1.0))


def test_ddim_takes_fresh_noise(model):
    one, other = (model("ldm").generate(steps=3, eta=eta, output="latent", seed=0).latents for eta in (0.0, 1.0))
    assert not mx.array_equal(one, other)


def run(*flags):
    """The command line's exit code."""
    return generate.main([*map(str, flags), "--steps", "2"])


def test_pictures_of_nothing_in_particular_from_the_command_line(folders, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--model", folders("ddpm"), "--dtype", "float32", "--count", 2, "--seed", 5, "--output", f"{out}/") == 0
    files = sorted(out.iterdir())
    assert [file.name for file in files] == ["picture-5.png", "picture-6.png"]
    wanted = model("ddpm").generate(steps=2, seed=5, count=2).images
    for file, image in zip(files, wanted, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(image))
    again = tmp_path / "again.png"
    assert run("--from-image", files[1], "--output", again) == 0
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(wanted[1]))
    assert metadata.read(again) == metadata.read(files[1])
    capsys.readouterr()


def test_pictures_of_classes_from_the_command_line(folders, model, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("--dtype", "float32", "--class", "goldfish,4", "--seed", 0)
    assert run("--model", folders("classes"), *flags, "--output", f"{out}/") == 0
    files = sorted(out.iterdir())
    assert [file.name for file in files] == ["class-4-0.png", "class-goldfish-0.png"]
    for file, one in zip(files, (4, 1), strict=True):
        about = metadata.read(file)
        assert about["class"] == one and about["prompt"] is None and about["guidance"] == 3.0
        assert Image.open(file).text["parameters"].startswith(f"class {one}\n")
        image = model("classes").generate(classes=one, steps=2, seed=0).images[0]
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(image))
    again = tmp_path / "again.png"
    assert run("--from-image", files[0], "--class", "goldfish", "--output", again) == 0
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(files[1])))
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("ddpm", ["a tent"], "this model takes no prompt"),
        ("ddpm", ["--class", "3"], "this model has no classes"),
        ("classes", [], "this model makes pictures of classes; give a class (--class ID), from 0 to 10, 10 being none"),
        ("classes", ["--class", "12"], "there is no class 12 in this model; give one from 0 to 10, 10 being none"),
        ("classes", ["--class", "1,,2"], "class label is empty"),
        ("classes", ["a tent", "--class", "1"], "give a prompt or --class, not both"),
        ("ddpm", ["--tgate", "1"], "this UNet looks at no prompt, so T-GATE has nothing to keep"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(name, flags, message, folders, tmp_path, capsys):
    assert run("--model", folders(name), "--output", tmp_path / "x.png", *flags) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_a_model_of_prompts_asks_for_one(original, capsys):
    assert run("--model", original) == 2
    assert "give a prompt" in capsys.readouterr().err


def test_core_ml_takes_models_of_prompts_only(folders, tmp_path, capsys):
    assert coreml.main(["--model", str(folders("ddpm")), "--out", str(tmp_path / "packages")]) == 2
    err = capsys.readouterr().err
    assert "packages for apps are for models that take a prompt" in err and err.count("\n") == 1
    assert not (tmp_path / "packages").exists()


def test_gates_are_for_models_that_look_at_something(model):
    with pytest.raises(InputError, match="T-GATE has nothing to keep"):
        model("classes").generate(classes=1, tgate=TGate(1), seed=0)
