"""diffusers' upscaling pipelines, called, against `generate` on the same folder, picture and noise."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from mlx_sd import DeepCache, StableDiffusion
from tests.conftest import GOLDENS
from tests.support import reference, unprompted, upscalers
from tests.support.families import GUIDANCE, NEGATIVE, PROMPT, SEED, distance

LIMIT = 1e-5  # of float32; pixels are of latents that random weights make saturate the decoder
STEPS = 6
SIZES = ((8, 8), (16, 24), (20, 12), (28, 36))


@pytest.fixture(scope="module")
def x4(shapes, tmp_path_factory):
    return upscalers.write(shapes, tmp_path_factory.mktemp("upscalers") / "x4")


@pytest.fixture(scope="module")
def ours(x4):
    return StableDiffusion.load(x4, dtype="float32")


@contextmanager
def _noise(pipe: Any, seed: int = SEED) -> Iterator[None]:
    """While open, all noise a pipeline draws comes from one of our streams, in the order that it asks."""
    numbers = np.random.RandomState(seed)

    def draw(shape: Any, **_: Any) -> torch.Tensor:
        return torch.from_numpy(numbers.standard_normal(tuple(shape)).astype(np.float32))

    module: Any = sys.modules[type(pipe).__module__]
    before = module.randn_tensor
    module.randn_tensor = draw
    try:
        with reference.noise_from(pipe.scheduler, lambda: draw(pipe.shape)):
            yield
    finally:
        module.randn_tensor = before


def theirs(pipe: Any, small: Any, **settings: Any) -> np.ndarray:
    given = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    pipe.shape = (1, 4, small.height, small.width)
    with _noise(pipe):
        found = pipe(image=small, output_type="latent", **(given | settings)).images
    return reference.last(found)


def latents(sd: Any, small: Any, **settings: Any) -> np.ndarray:
    given = {"negative": NEGATIVE, "steps": STEPS, "guidance": GUIDANCE, "seed": SEED, "output": "latent"}
    return np.array(sd.generate(PROMPT, image=small, **(given | settings)).latents)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", [0, 20, 137, 350])
def test_x4_at_every_noise_level_and_size(size, level, x4, ours, measure):
    small = upscalers.picture(*size)
    expected = theirs(reference.pipeline(x4), small, noise_level=level)
    measure("x4 upscaler, latents", distance(latents(ours, small, noise_level=level), expected), LIMIT)


@pytest.mark.parametrize("size", [(9, 8), (13, 18), (7, 31)])
def test_x4_of_sizes_that_diffusers_would_round(size, x4, ours, measure):
    # Its pipeline resizes to multiples of 4, against which nothing speaks in the networks.
    pipe, small = reference.pipeline(x4), upscalers.picture(*size)
    pipe.image_processor.register_to_config(do_resize=False)
    expected = theirs(pipe, small, noise_level=20)
    measure("x4 upscaler, odd sizes", distance(latents(ours, small, noise_level=20), expected), LIMIT)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "euler_ancestral", "plms", "dpmpp_2m", "heun", "lms"])
def test_x4_with_every_kind_of_sampler(sampler, x4, ours, measure):
    pipe, small = reference.pipeline(x4), upscalers.picture(16, 12)
    pipe.scheduler = reference.scheduler(upscalers.X4["scheduler"], sampler)
    error = distance(latents(ours, small, sampler=sampler), theirs(pipe, small))
    measure("x4 upscaler, every sampler", error, LIMIT)


def test_x4_s_own_settings(x4, ours, measure):
    """What neither side is told: 75 steps, guidance 9, noise level 20, no negative prompt."""
    pipe, small = reference.pipeline(x4), upscalers.picture(8, 12)
    pipe.shape = (1, 4, 12, 8)
    with _noise(pipe):
        expected = reference.last(pipe(PROMPT, small, output_type="latent").images)
    found = ours.generate(PROMPT, image=small, seed=SEED, output="latent")
    chosen = found.requests[0]
    assert (chosen.steps, chosen.guidance, chosen.noise_level, chosen.sampler) == (75, 9.0, 20, "ddim")
    measure("x4 upscaler, own settings", distance(found.latents, expected), LIMIT)


def test_x4_pictures_to_a_rounding(x4, ours, measure):
    pipe, small = reference.pipeline(x4), upscalers.picture(16, 12)
    pipe.shape = (1, 4, 12, 16)
    with _noise(pipe):
        expected = pipe(PROMPT, small, num_inference_steps=3, guidance_scale=1.0).images[0]
    found = ours.generate(PROMPT, image=small, seed=SEED, steps=3, guidance=1.0).images[0]
    assert found.size == expected.size == (64, 48)
    gap = np.abs(np.asarray(found, int) - np.asarray(expected, int)).max()
    measure("x4 upscaler, pictures, of 255", float(gap) / 255, 1 / 255)


@pytest.mark.parametrize(("interval", "branch"), [(2, 0), (3, 0), (3, 1), (2, 4), (5, 2)])
def test_the_authors_deepcache_around_x4(interval, branch, x4, ours, measure):
    pipe, small = reference.pipeline(x4), upscalers.picture(16, 12)
    with reference.deepcache(pipe, interval, branch):
        expected = theirs(pipe, small)
    found = latents(ours, small, deepcache=DeepCache(interval, branch))
    measure("x4 upscaler, the authors' DeepCache", distance(found, expected), LIMIT)


def test_x4_as_diffusers_saves_it_again(x4, ours, tmp_path, measure):
    pipe, small = reference.pipeline(x4), upscalers.picture(8, 8)
    pipe.save_pretrained(tmp_path / "saved")
    again = StableDiffusion.load(tmp_path / "saved", dtype="float32")
    measure("x4 upscaler, saved by diffusers", distance(latents(again, small), latents(ours, small)), 0.0)


def test_x4_of_a_config_that_diffusers_mends(shapes, tmp_path, measure):
    """Its pipeline scales latents by 0.08333, whatever the VAE's config says."""
    folder = upscalers.write(shapes, tmp_path / "x4", vae={"scaling_factor": 0.18215})
    pipe, small = reference.pipeline(folder), upscalers.picture(8, 8)
    pipe.shape = (1, 4, 8, 8)
    with _noise(pipe):
        expected = pipe(PROMPT, small, num_inference_steps=2, guidance_scale=1.0, output_type="np").images[0]
    sd = StableDiffusion.load(folder, dtype="float32")
    result = sd.generate(PROMPT, image=small, seed=SEED, steps=2, guidance=1.0, output="latent")
    found = (np.array(sd.decode(result.latents))[0] + 1) / 2
    measure("x4 upscaler, pixels", distance(found, expected), LIMIT)


# ------------------------------------------------------------------------------------------------ latent diffusion's


@pytest.fixture(scope="module")
def ldm(tmp_path_factory):
    shapes = json.loads((GOLDENS / "unprompted.json").read_text(encoding="utf-8"))["ldm_sr"]
    return unprompted.write_folder("ldm_sr", shapes, tmp_path_factory.mktemp("upscalers") / "ldm")


@pytest.fixture(scope="module")
def plain(ldm):
    return StableDiffusion.load(ldm, dtype="float32")


def ldm_pipeline(folder: Path) -> Any:
    made = diffusers.LDMSuperResolutionPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def of_ldm(pipe: Any, small: Any, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """The latents that diffusers' pipeline decodes, and its picture in [0, 1]."""
    seen: list[torch.Tensor] = []
    decode, pipe.shape = pipe.vqvae.decode, (1, 3, small.height, small.width)
    pixels = reference.first(np.asarray(small, np.float32)[None] / 127.5 - 1)
    pipe.vqvae.decode = lambda latents: (seen.append(latents), decode(latents))[1]
    try:
        with _noise(pipe):
            image = pipe(pixels, output_type="np", **({"num_inference_steps": STEPS} | settings)).images
    finally:
        pipe.vqvae.decode = decode
    return reference.last(seen[0]), image


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (20, 12), (32, 64)])
def test_ldm_super_resolution_of_every_size(size, ldm, plain, measure):
    small = upscalers.picture(*size)
    latents, pixels = of_ldm(ldm_pipeline(ldm), small)
    result = plain.generate(image=small, seed=SEED, steps=STEPS, output="latent")
    measure("LDM super-resolution, latents", distance(result.latents, latents), LIMIT)
    measure("LDM super-resolution, pixels", distance((np.array(plain.decode(result.latents)) + 1) / 2, pixels), LIMIT)


def test_ldm_super_resolution_s_own_settings(ldm, plain, measure):
    small = upscalers.picture(32, 32)
    pipe = ldm_pipeline(ldm)
    pipe.shape = (1, 3, 32, 32)
    with _noise(pipe):
        expected = np.asarray(pipe(small).images[0], int)
    found = plain.generate(image=small, seed=SEED)
    assert (found.requests[0].steps, found.requests[0].guidance, found.requests[0].noise_level) == (100, 1.0, None)
    gap = np.abs(np.asarray(found.images[0], int) - expected).max()
    measure("LDM super-resolution, pictures, of 255", float(gap) / 255, 1 / 255)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "plms", "dpmpp_2m", "euler", "lms"])
def test_ldm_super_resolution_with_every_kind_of_sampler(sampler, ldm, plain, measure):
    pipe, small = ldm_pipeline(ldm), upscalers.picture(16, 24)
    pipe.scheduler = reference.scheduler(unprompted.FAMILIES["ldm_sr"]["scheduler"], sampler)
    # diffusers scales the picture like the latents, which no network was trained with; only samplers on sigmas do it.
    scale = pipe.scheduler.scale_model_input
    pipe.scheduler.scale_model_input = lambda x, t: torch.cat([scale(x[:, :3], t), x[:, 3:]], dim=1)
    latents, _ = of_ldm(pipe, small)
    result = plain.generate(image=small, seed=SEED, steps=STEPS, sampler=sampler, output="latent")
    measure("LDM super-resolution, every sampler", distance(result.latents, latents), LIMIT)


def test_ldm_super_resolution_with_noise_of_its_own(ldm, plain, measure):
    pipe, small = ldm_pipeline(ldm), upscalers.picture(16, 8)
    for eta in (0.5, 1.0):
        latents, _ = of_ldm(pipe, small, eta=eta)
        result = plain.generate(image=small, seed=SEED, steps=STEPS, eta=eta, output="latent")
        measure("LDM super-resolution, eta", distance(result.latents, latents), LIMIT)
