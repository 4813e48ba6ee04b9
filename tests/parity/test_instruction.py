"""Images edited by instruction: diffusers' InstructPix2Pix pipelines, called, against `generate` on the same folder."""

import functools
import json

import diffusers
import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from convert import __main__ as command
from mlx_sd import StableDiffusion
from mlx_sd.tasks import clip_image
from tests.support import families, image_prompts, instructions, reference
from tests.support.families import FAMILIES, NEGATIVE, PROMPT, SEED, distance

PASS, LATENTS, STEPS = 1e-5, 1e-4, 10
GUIDANCE, IMAGE = 5.0, 2.0
SAMPLERS = ("ddim", "dpmpp_2m", "euler", "euler_ancestral", "heun", "lms", "plms", "unipc")
SIZE = (64, 48)


@pytest.fixture(scope="module")
def place(shapes, tmp_path_factory):
    """place("sd1") is that kind's diffusers folder."""
    return functools.cache(lambda name: instructions.write(shapes, tmp_path_factory.mktemp("edits") / name, name))


@pytest.fixture(scope="module")
def sd(place):
    return functools.cache(lambda name: StableDiffusion.load(place(name), dtype="float32"))


def pipeline(folder, name, sampler):
    index = json.loads((folder / "model_index.json").read_text())
    kind = getattr(diffusers, index["_class_name"])
    pipe = reference.silent(kind.from_pretrained(folder))
    assert getattr(pipe, "is_cosxl_edit", False) == (name == "cosxl")
    pipe.scheduler = reference.scheduler(FAMILIES["sdxl" if name == "cosxl" else name]["scheduler"], sampler)
    return pipe


def shown(size):
    """Noise of the latents of an image of that size, for a VAE of any factor."""
    return lambda factor: families.noise((size[1] // factor, size[0] // factor))


def theirs(pipe, noise, image, **settings):
    more = {"width": image.width, "height": image.height} if "XL" in type(pipe).__name__ else {}
    with reference.noise_from(pipe.scheduler, reference.stream(SEED, *reference.first(noise).shape)):
        latents = pipe(
            PROMPT,
            image=image,
            latents=reference.first(noise),
            output_type="latent",
            **{
                "negative_prompt": NEGATIVE,
                "guidance_scale": GUIDANCE,
                "image_guidance_scale": IMAGE,
                "num_inference_steps": STEPS,
            }
            | more
            | settings,
        ).images
    return reference.last(latents)


def ours(sd, noise, image, **settings):
    values = {"negative": NEGATIVE, "guidance": GUIDANCE, "image_guidance": IMAGE, "steps": STEPS, "seed": SEED}
    return sd.generate(PROMPT, image=image, latents=mx.array(noise), output="latent", **(values | settings)).latents


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_whole_edits(name, sampler, place, sd, measure):
    pipe, image = pipeline(place(name), name, sampler), instructions.picture(SIZE)
    noise = shown(SIZE)(pipe.vae_scale_factor)
    expected = theirs(pipe, noise, image)
    actual = ours(sd(name), noise, image, sampler=sampler)
    measure(f"{STEPS} steps, edit by instruction", distance(actual, expected), LATENTS)
    for changed, least in ((1.0, 0.05), (6.0, 0.1)):
        assert distance(ours(sd(name), noise, image, sampler=sampler, image_guidance=changed), expected) > least


SETTINGS = {
    "no guidance of the image": ({"image_guidance": 1.0}, {"image_guidance_scale": 1.0}),
    "no guidance": ({"guidance": 1.0}, {"guidance_scale": 1.0}),
    "no negative prompt": ({"negative": None}, {"negative_prompt": None}),
    "the defaults of both scales": (
        {"guidance": None, "image_guidance": None},
        {"guidance_scale": None, "image_guidance_scale": 1.5},
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("name", ["sd1", "sdxl", "cosxl"])
def test_settings_mean_the_same(name, case, place, sd, measure):
    here, there = SETTINGS[case]
    if there.get("guidance_scale", 0) is None:
        there = there | {"guidance_scale": 7.5 if name == "sd1" else 5.0}
    pipe, image = pipeline(place(name), name, "ddim"), instructions.picture(SIZE)
    noise = shown(SIZE)(pipe.vae_scale_factor)
    actual = ours(sd(name), noise, image, sampler="ddim", **here)
    measure("edit by instruction, settings", distance(actual, theirs(pipe, noise, image, **there)), LATENTS)


def test_sdxl_s_rescaled_guidance_and_sizes(place, sd, measure):
    pipe, image = pipeline(place("sdxl"), "sdxl", "euler"), instructions.picture(SIZE)
    noise = shown(SIZE)(pipe.vae_scale_factor)
    expected = theirs(
        pipe,
        noise,
        image,
        guidance_rescale=0.7,
        original_size=(32, 96),
        target_size=(48, 128),
        crops_coords_top_left=(9, 5),
        prompt_2="a moon",
    )
    more = {"original_size": (96, 32), "target_size": (128, 48), "crop": (5, 9), "prompt_2": "a moon"}
    actual = ours(sd("sdxl"), noise, image, sampler="euler", guidance_rescale=0.7, **more)
    measure("edit by instruction, SDXL's own settings", distance(actual, expected), LATENTS)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "cosxl"])
def test_one_evaluation(name, place, sd, measure):
    """The guided prediction at one timestep, from the same latents."""
    pipe, image = pipeline(place(name), name, "ddim"), instructions.picture(SIZE)
    noise = shown(SIZE)(pipe.vae_scale_factor)
    predictions, step = [], pipe.scheduler.step

    def noting(output, *arguments, **keywords):
        predictions.append(output)
        return step(output, *arguments, **keywords)

    pipe.scheduler.step = noting
    theirs(pipe, noise, image, num_inference_steps=1)
    model = sd(name)
    settings = {"negative": NEGATIVE, "guidance": GUIDANCE, "image_guidance": IMAGE, "steps": 1, "seed": SEED}
    result = model.generate(PROMPT, image=image, latents=mx.array(noise), output="latent", sampler="ddim", **settings)
    scale = 1.0 if name == "cosxl" else 1 / model.vae.config.scaling_factor
    latents = model.encode(image) * scale
    timestep = float(pipe.scheduler.timesteps[0])
    prediction = model.predictor(result.requests, channels=latents)(mx.array(noise), timestep)
    measure("edit by instruction, one evaluation", distance(prediction, reference.last(predictions[0])), PASS)


def test_an_image_of_any_size_is_fitted(place, sd, measure):
    """Its sides are multiples of the latents' size: at other sizes, ours rounds to the nearest and theirs down."""
    pipe = pipeline(place("sd1"), "sd1", "euler")
    image = instructions.picture((67, 51))  # 64 x 48 for both
    noise = shown(SIZE)(pipe.vae_scale_factor)
    actual = ours(sd("sd1"), noise, image, sampler="euler")
    measure("edit by instruction, a fitted image", distance(actual, theirs(pipe, noise, image)), LATENTS)


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_an_image_prompt_beside(kind, place, sd, tmp_path, measure):
    values = {k: v for k, v in image_prompts.ENCODER.items() if k != "architectures"}
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**values))
    state = {name: torch.from_numpy(array) for name, array in image_prompts.encoder_arrays().items()}
    encoder.load_state_dict(state, strict=False)
    file = image_prompts.write(tmp_path / f"{kind}.safetensors", kind, sd("sd1").unet)
    stored: dict = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(file).items():
        part, _, inside = name.partition(".")
        stored[part][inside] = tensor
    pipe, image = pipeline(place("sd1"), "sd1", "ddim"), instructions.picture(SIZE)
    pipe.register_modules(image_encoder=encoder.eval())
    pipe.unet._load_ip_adapter_weights([stored], low_cpu_mem_usage=False)
    pipe.set_ip_adapter_scale(0.7)
    (prompt,) = image_prompts.pictures()
    noise = shown(SIZE)(pipe.vae_scale_factor)
    expected = theirs(pipe, noise, image, ip_adapter_image=[reference.first(np.array(clip_image.pixels(prompt, 32)))])
    actual = ours(sd("sd1"), noise, image, sampler="ddim", ip_adapters=[(str(file), prompt, 0.7)])
    measure("edit by instruction, an IP-Adapter beside", distance(actual, expected), LATENTS)
    assert distance(ours(sd("sd1"), noise, image, sampler="ddim"), expected) > 0.1


@pytest.mark.parametrize("name", ["sd1", "sdxl", "cosxl"])
def test_a_converted_model_goes_back_to_diffusers(name, place, sd, tmp_path, measure):
    for flags in (
        ["--model", place(name), "--out", tmp_path / "model"],
        ["--model", tmp_path / "model", "--to", "diffusers", "--out", tmp_path / "back"],
    ):
        assert command.main(list(map(str, flags))) == 0
    image = instructions.picture(SIZE)
    pipe = pipeline(tmp_path / "back", name, "euler")
    assert type(pipe) is type(diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back"))
    noise = shown(SIZE)(pipe.vae_scale_factor)
    converted = StableDiffusion.load(tmp_path / "model", dtype="float32")
    actual = ours(converted, noise, image, sampler="euler")
    assert mx.array_equal(actual, ours(sd(name), noise, image, sampler="euler"))
    measure("edit by instruction, converted", distance(actual, theirs(pipe, noise, image)), LATENTS)
