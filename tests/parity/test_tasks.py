"""Pictures made from pictures: diffusers' own pipelines, called, against `generate` on the same folder and draws."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from mlx_sd import StableDiffusion
from tests.support import families, reference, singles
from tests.support.families import FAMILIES, GUIDANCE, NEGATIVE, PROMPT, SEED, distance

LATENTS, STEPS = 1e-3, 8
STRENGTHS = (1.0, 0.6, 0.2)

TOLD: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "output_type": "latent"}
TOLD |= {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}

# Not PNDM and LMS: cut lists of theirs ask for what the latents are not, see reference.midway.
SAMPLERS = ("ddim", "ddpm", "deis", "dpm_2m", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_3m")
SAMPLERS += ("euler", "euler_ancestral", "heun", "lcm", "tcd", "unipc")
NINE = ("inpaint9", "sdxl9")
FEW = ("ddim", "dpmpp_2m_sde", "euler", "heun")


@pytest.fixture(scope="module")
def saved(shapes, tmp_path_factory):
    """saved("sd1") is that family's diffusers folder; "sdxl9" is SDXL that paints."""
    made: dict[str, Any] = {}

    def folder(name: str) -> Any:
        if name not in made:
            path, nine = tmp_path_factory.mktemp("folders") / name, name == "sdxl9"
            kind = "sdxl" if nine else name
            unet = shapes[kind]["unet"] | ({"conv_in.weight": [32, 9, 3, 3]} if nine else {})
            made[name] = families.write_folder(kind, {**shapes[kind], "unet": unet}, path)
            if nine:
                config = json.loads((path / "unet" / "config.json").read_text(encoding="utf-8"))
                (path / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 9}), encoding="utf-8")
        return made[name]

    return folder


def picture(size: tuple[int, int] = (64, 48)) -> Image.Image:
    small = np.random.RandomState(5).randint(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def mask(size: tuple[int, int] = (64, 48)) -> Image.Image:
    values = np.zeros(size[::-1], np.uint8)
    values[5:37, 11:40] = 255
    return Image.fromarray(values)


@contextmanager
def draws(scheduler: Any, draw: Callable[[], torch.Tensor], skipped: int | None = None) -> Iterator[None]:
    """While open, all noise of pipelines, VAEs and the scheduler comes from `draw`, but that of the `skipped` place."""
    count = iter(range(10**6))

    def noise(*_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(1) if next(count) == skipped else draw()

    names = [
        name for name in sys.modules if name.startswith(("diffusers.pipelines.stable", "diffusers.models.autoenc"))
    ]
    sources = [sys.modules[name] for name in names if hasattr(sys.modules[name], "randn_tensor")]
    before = [source.randn_tensor for source in sources]
    for source in sources:
        source.randn_tensor = noise
    try:
        with reference.noise_from(scheduler, draw):
            yield
    finally:
        for source, kept in zip(sources, before, strict=True):
            source.randn_tensor = kept


def pipeline(kind: Any, folder: Any, name: str, sampler: str) -> Any:
    """A diffusers pipeline of that kind on a folder, with the scheduler that one of our samplers means."""
    made = kind.from_pipe(reference.pipeline(folder))
    made.set_progress_bar_config(disable=True)
    made.scheduler = reference.scheduler(FAMILIES[name]["scheduler"], sampler)
    return made


def noise(pipe: Any, image: Image.Image) -> Callable[[], torch.Tensor]:
    factor = pipe.vae_scale_factor
    return reference.stream(SEED, 1, 4, image.height // factor, image.width // factor)


def theirs(pipe: Any, image: Image.Image, skipped: int | None = None, **settings: Any) -> np.ndarray:
    """Final latents of a diffusers pipeline's own call with the tests' prompt."""
    with draws(pipe.scheduler, noise(pipe, image), skipped):
        return reference.last(pipe(image=image, **TOLD, **settings).images)


def ours(sd: Any, image: Image.Image | None, **settings: Any) -> Any:
    given = {"seed": SEED, "steps": STEPS, "guidance": GUIDANCE, "output": "latent"}
    return sd.generate(PROMPT, NEGATIVE, image=image, **(given | settings)).latents


@pytest.fixture(scope="module")
def refiner(shapes, tmp_path_factory):
    """The tiny refiner: its folder, and loaded."""
    folder = singles.refiner_folder(shapes, tmp_path_factory.mktemp("refiner") / "refiner")
    return folder, StableDiffusion.load(folder, dtype="float32")


# Family -> samplers; one of each kind where it is not the sampler that is in question.
CASES = [("sd1", sampler) for sampler in SAMPLERS] + [("sdxl", sampler) for sampler in FEW]


def asked(sampler: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ours and theirs are told beside the sampler's name: their pipelines set TCD's gamma, by the name of eta."""
    return {"tcd": ({}, {"eta": 0.3}), "dpmpp_2s": ({"schedule": "linspace"}, {})}.get(sampler, ({}, {}))


def strengths(sampler: str) -> tuple[float, ...]:
    return STRENGTHS if sampler in ("euler", "ddim") else STRENGTHS[1:2]


@pytest.mark.parametrize(("name", "sampler"), [*CASES, ("sd2v", "ddim"), ("sd2v", "dpmpp_2m")])
def test_image_to_image(name, sampler, saved, family, measure):
    kind = diffusers.StableDiffusionXLImg2ImgPipeline if name == "sdxl" else diffusers.StableDiffusionImg2ImgPipeline
    pipe = pipeline(kind, saved(name), name, sampler)
    here, there = asked(sampler)
    for strength in strengths(sampler):
        found = ours(family(name), picture(), sampler=sampler, strength=strength, **here)
        measure("image to image", distance(found, theirs(pipe, picture(), strength=strength, **there)), LATENTS)


@pytest.mark.parametrize(("name", "sampler"), [*CASES, *[(name, sampler) for name in NINE for sampler in FEW[:2]]])
def test_inpainting(name, sampler, saved, family, measure):
    xl = name.startswith("sdxl")
    kind = diffusers.StableDiffusionXLInpaintPipeline if xl else diffusers.StableDiffusionInpaintPipeline
    pipe = pipeline(kind, saved(name), "sdxl" if xl else name, sampler)
    sd = StableDiffusion.load(saved(name), dtype="float32") if name == "sdxl9" else family(name)
    nine, (here, there) = name in NINE, asked(sampler)
    for strength in strengths(sampler):
        # Beside four channels they encode the masked picture too, and do not use it.
        given = {"mask_image": mask(), "width": 64, "height": 48, "strength": strength, **there}
        expected = theirs(pipe, picture(), None if nine else 2, **given)
        found = ours(sd, picture(), mask=mask(), sampler=sampler, strength=strength, **here)
        measure("inpainting, nine channels" if nine else "inpainting by blending", distance(found, expected), LATENTS)


@pytest.mark.parametrize("sampler", FEW)
def test_a_refiner_alone(sampler, refiner, measure):
    folder, sd = refiner
    pipe = pipeline(diffusers.StableDiffusionXLImg2ImgPipeline, folder, "sdxl", sampler)
    for strength in (0.3, 1.0):
        found = ours(sd, picture(), sampler=sampler, strength=strength)
        measure("SDXL refiner alone", distance(found, theirs(pipe, picture(), strength=strength)), LATENTS)


# Not Heun: its pipelines count evaluations, and cut within a step.
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m_sde", "dpmpp_2m", "euler", "euler_ancestral", "unipc"])
@pytest.mark.parametrize("task", ["text", "image"])
def test_a_refiner_after_the_base(task, sampler, saved, refiner, family, measure):
    goes_on = diffusers.StableDiffusionXLImg2ImgPipeline
    begins = diffusers.StableDiffusionXLPipeline if task == "text" else goes_on
    base = pipeline(begins, saved("sdxl"), "sdxl", sampler)
    then = pipeline(goes_on, refiner[0], "sdxl", sampler)
    given, told = {"text": ({}, {"width": 64, "height": 48}), "image": ({"strength": 0.9}, {})}[task]
    shown = {} if task == "text" else {"image": picture()}
    for at in (0.5, 0.8):
        draw = noise(base, picture())
        with draws(base.scheduler, draw):
            latents = base(**TOLD, **given, **told, **shown, denoising_end=at).images
        with draws(then.scheduler, draw):
            expected = reference.last(then(**TOLD, image=latents, denoising_start=at).images)
        more = {"refiner": refiner[1], "refine_at": at, "sampler": sampler, **given, **told}
        found = ours(family("sdxl"), shown.get("image"), **more)
        measure("SDXL base and refiner", distance(found, expected), LATENTS)
