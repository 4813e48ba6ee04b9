"""Models that take no prompt: denoising diffusion on pixels, latent diffusion with a VQ autoencoder, classes."""

import json
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from bench.operations import counting
from convert import __main__ as command
from coreml import __main__ as coreml
from mlx_sd import DeepCache, StableDiffusion, TGate, generate, picture
from mlx_sd.errors import InputError
from mlx_sd.load import build
from mlx_sd.table import Options
from tests import families, unprompted
from tests.conftest import GOLDENS
from tests.families import distance
from tests.unprompted import FAMILIES, UNETS, VQS

NETWORK, PICTURES = 1e-5, 1e-4


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDENS / "unprompted.npz")


@pytest.fixture(scope="module")
def tensors():
    """Family, or "unets" and "vqs" -> part -> tensor name -> shape."""
    return json.loads((GOLDENS / "unprompted.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folders(tensors, folder):
    """folders("ddpm") is that family's diffusers folder, to be read."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = unprompted.write_folder(name, tensors[name], folder / name)
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


def network(part, config, tensors):
    """Ours, with the weights that its names have in a diffusers checkpoint."""
    from convert import names
    from mlx_sd.load import shapes as ours

    made = build(part, config, "x")
    weights = []
    for name, shape in ours(made).items():
        theirs = names.theirs(part, made.names, name)
        array = families.tensor(part, theirs, tensors[theirs])
        weights.append((name, mx.array(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array).reshape(shape)))
    made.load_weights(weights)
    return made


def arrays(inputs):
    return {name: mx.array(value) for name, value in inputs.items()}


@pytest.mark.parametrize("name", UNETS)
def test_unets_agree(name, tensors, golden):
    unet = network("unet", UNETS[name], tensors["unets"][name])
    ours = unet(**arrays(unprompted.unet_inputs(UNETS[name])))[0]
    assert distance(ours, golden[f"unet/{name}"]) <= NETWORK


@pytest.mark.parametrize("name", UNETS)
def test_cached_is_full_bit_for_bit_at_every_branch(name, tensors):
    unet = network("unet", UNETS[name], tensors["unets"][name])
    inputs = arrays(unprompted.unet_inputs(UNETS[name], (8, 4)))
    plain, _ = unet(**inputs)
    assert len(unet.branches) == 3 * (UNETS[name]["layers_per_block"] + 1)
    for branch in unet.branches:
        full, deep = unet(**inputs, depth=branch + 1)
        cached, _ = unet(**inputs, deep=deep, depth=branch + 1)
        assert mx.array_equal(full, plain), f"branch {branch}"
        assert mx.array_equal(cached, plain), f"branch {branch}"


@pytest.mark.parametrize("name", VQS)
def test_quantized_autoencoders_agree(name, tensors, golden):
    vae = network("vae", VQS[name], tensors["vqs"][name])
    mean, log_variance = vae.encode(mx.array(families.image()))
    assert distance(mean, golden[f"vq/{name}/latents"]) <= NETWORK
    assert (log_variance == -mx.inf).all()
    assert distance(vae.decode(mean), golden[f"vq/{name}/image"]) <= NETWORK


def test_what_is_decoded_is_a_row_of_the_codebook(tensors):
    vae = network("vae", VQS["vq"], tensors["vqs"]["vq"])
    codes = vae.codebook.weight
    assert mx.array_equal(vae.quantize(codes[None, None]), codes[None, None])
    z = mx.array(families.numbers("z", 1, 3, 5, 3))
    distances = mx.sum((z[..., None, :] - codes) ** 2, axis=-1)
    assert mx.array_equal(vae.quantize(z), codes[mx.argmin(distances, axis=-1)])
    assert mx.array_equal(vae.decode(z), vae.decode(vae.quantize(z)))


@pytest.mark.parametrize("name", unprompted.WITHOUT_CONDITION)
def test_pipelines_agree(name, model, golden):
    sd = model(name)
    made = sd.generate(count=2, batch=2, seed=families.SEED, steps=5)
    assert distance((sd.decode(made.latents) + 1) / 2, golden[f"pictures/{name}"]) <= PICTURES
    for image, wanted in zip(made.images, golden[f"pictures/{name}"], strict=True):
        assert np.abs(np.asarray(image) / 255.0 - wanted).max() <= 0.51 / 255
    assert made.subjects == [None, None] and made.prompts == []


def test_guidance_steers_away_from_the_null_class(model, golden):
    settings = {"latents": mx.array(unprompted.noise()), "batch": 2, "steps": 10, "guidance": 3.0, "output": "latent"}
    made = model("classes").generate(classes=["Goldfish", 4], **settings)
    assert distance(made.latents, golden["guided"]) <= PICTURES
    assert made.subjects == [1, 4]
    alone = model("classes").generate(classes=4, **settings | {"latents": settings["latents"][1:]})
    assert distance(alone.latents, made.latents[1:]) <= 1e-5


@pytest.mark.filterwarnings("ignore:in 4 evaluations little repeats itself")
@pytest.mark.parametrize("name", (*unprompted.WITHOUT_CONDITION, "classes"))
def test_deepcache_at_interval_one_changes_nothing_and_at_two_halves_the_work(name, model):
    how = {"classes": 3} if name == "classes" else {}
    plain, every, second = (
        model(name).generate(steps=4, deepcache=policy, output="latent", **how)
        for policy in (None, DeepCache(1, 2), DeepCache(2, 2))
    )
    assert mx.array_equal(plain.latents, every.latents)
    assert not mx.array_equal(plain.latents, second.latents)
    assert (second.full, second.evaluations) == (2, 4)


def test_pixels_need_no_autoencoder_and_stay_in_range(model):
    sd = model("ddpm")
    made = sd.generate(steps=3)
    assert made.images[0].size == (16, 16)
    assert mx.array_equal(sd.decode(made.latents), mx.clip(made.latents, -1, 1))
    assert distance(sd.encode(made.images[0]), mx.clip(made.latents, -1, 1)) <= 0.51 / 127.5


def test_the_first_checkpoints_lie_flat_in_their_folder(tensors, model, tmp_path):
    folder = unprompted.write_folder("ddpm", tensors["ddpm"], tmp_path / "flat", flat=True)
    assert not (folder / "unet").exists()
    flat = StableDiffusion.load(folder, dtype="float32").generate(steps=2, output="latent")
    assert mx.array_equal(flat.latents, model("ddpm").generate(steps=2, output="latent").latents)


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


def test_attention_saved_by_older_versions_is_read(tensors, model, tmp_path):
    folder = unprompted.write_folder("ddpm", tensors["ddpm"], tmp_path / "old")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def name(key):
        for new, before in old.items():
            key = key.replace(f".{new}.", f".{before}.")
        return key

    renamed = {name(key): array for key, array in load_file(file).items()}
    assert any(".query." in key for key in renamed)
    save_file(renamed, file)
    found = StableDiffusion.load(folder, dtype="float32").generate(steps=2, output="latent")
    assert mx.array_equal(found.latents, model("ddpm").generate(steps=2, output="latent").latents)


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
        model(name).generate(steps=2, **asked)


def test_a_model_of_prompts_has_no_classes(family):
    with pytest.raises(InputError, match="this model has no classes; give a prompt"):
        family("sd1").generate(classes=1)


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
def test_checkpoints_for_other_tasks_are_refused(name, changes, message, tensors, tmp_path):
    folder = unprompted.write_folder(name, tensors[name], tmp_path / "other", **changes)
    with pytest.raises(InputError, match=message):
        StableDiffusion.load(folder)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"mid_block_scale_factor": 2}, "mid_block_scale_factor = 2"),
        ("unet", {"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier'"),
        ("unet", {"down_block_types": ["SkipDownBlock2D"] * 3}, "down_block_types = 'SkipDownBlock2D'"),
        ("unet", {"downsample_type": "fir"}, "downsample_type = 'fir'"),
        ("unet", {"attention_head_dim": 5}, "64 channels do not divide into heads of 5"),
        ("unet", {"_class_name": "UNet1DModel"}, "_class_name = 'UNet1DModel'"),
        ("unet", {"cross_attention_dim": 32}, "cross_attention_dim"),
        ("vae", {"norm_type": "spatial"}, "norm_type = 'spatial'"),
        ("vae", {"_class_name": "AutoencoderDC"}, "_class_name = 'AutoencoderDC'"),
    ],
)
def test_what_no_network_here_does_is_refused_by_name(part, change, message):
    with pytest.raises(InputError, match=message):
        build(part, {"unet": UNETS["ddpm"], "vae": VQS["vq"]}[part] | change, "x")


def test_a_context_is_for_networks_with_a_prompt_only(model, family):
    inputs = arrays(unprompted.unet_inputs(UNETS["ddpm"]))
    with pytest.raises(InputError, match="takes no context"):
        model("ddpm").unet(**inputs, context=mx.zeros((2, 7, 32)))
    with pytest.raises(InputError, match="takes a context"):
        family("sd1").unet(mx.zeros((1, 8, 8, 4)), mx.array(1.0))


def test_ddim_takes_fresh_noise(model):
    one, other = (
        model("ldm").generate(steps=3, options=Options(eta=eta), output="latent").latents for eta in (0.0, 1.0)
    )
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
    assert picture.read(again) == picture.read(files[1])
    capsys.readouterr()


def test_pictures_of_classes_from_the_command_line(folders, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--model", folders("classes"), "--dtype", "float32", "--class", "goldfish,4", "--output", f"{out}/") == 0
    files = sorted(out.iterdir())
    assert [file.name for file in files] == ["class-4-0.png", "class-goldfish-0.png"]
    for file, one in zip(files, (4, 1), strict=True):
        about = picture.read(file)
        assert about["class"] == one and about["prompt"] is None and about["guidance"] == 3.0
        assert Image.open(file).text["parameters"].startswith(f"class {one}\n")
        image = model("classes").generate(classes=one, steps=2).images[0]
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
        ("classes", ["--class", "1,,2"], "there is no class ''"),
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
    assert "Core ML packages are for models that take a prompt" in err and err.count("\n") == 1
    assert not (tmp_path / "packages").exists()


def test_gates_are_for_models_that_look_at_something(model):
    with pytest.raises(InputError, match="T-GATE has nothing to keep"):
        model("classes").generate(classes=1, tgate=TGate(1))


FULL_SIZE = {
    "DDPM, CIFAR-10": (
        unprompted.unet(
            block_out_channels=[128, 256, 256, 256],
            down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
            norm_num_groups=32,
            up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        ),
        32,
        (6.22, 0.49, 1.28, 2.24),
    ),
    "DDPM, LSUN 256": (
        unprompted.unet(
            block_out_channels=[128, 128, 256, 256, 512, 512],
            down_block_types=[*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
            norm_num_groups=32,
            up_block_types=["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
        ),
        256,
        (248.5, 31.6, 82.1, 132.5),
    ),
    "LDM, ImageNet 256": (
        unprompted.SINGLES["ldm-classes"]["unet"]
        | {
            "block_out_channels": [192, 384, 576, 960],
            "cross_attention_dim": 512,
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
        },
        64,
        (104.2, 4.42, 11.5, 20.1),
    ),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_networks_cost_what_deepcache_counts(name):
    """Of a full evaluation and of branches 0, 1 and 2; nothing is computed."""
    config, side, known = FULL_SIZE[name]
    unet = build("unet", config, name)
    given = {"context": mx.zeros((1, 1, 512))} if unet.config.prompted else {}
    call = partial(unet, mx.zeros((1, side, side, 3)), mx.array(1.0), **given)
    found = []
    with counting(unet) as full:
        call()
    found.append(full)
    for depth in (1, 2, 3):
        with counting(unet):
            _, deep = call(depth=depth)
        with counting(unet) as cached:
            call(depth=depth, deep=deep)
        found.append(cached)
    for operations, billions in zip(found, known, strict=True):
        assert abs(sum(o.macs for o in operations) / 1e9 / billions - 1) < 0.01
