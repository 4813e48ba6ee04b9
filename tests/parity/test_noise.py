"""Noise is PyTorch's: the numbers of its CPU generator, and what diffusers makes of them."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from mlx_sd.sampling import noise
from tests.support import families, reference
from tests.support.families import GUIDANCE, NEGATIVE, PROMPT

SIZES = (1, 15, 16, 17, 31, 1605, 16384, 16900)


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_the_cpu_s_numbers_are_torch_s_whatever_was_drawn_before(seed, measure):
    for size in SIZES:
        generator, draw = torch.Generator().manual_seed(seed), noise.generator("torch", seed)
        for _ in range(2):
            known = torch.randn(size, generator=generator).numpy()
            measure("torch's noise", float(np.abs(draw((size,)) - known).max()), 1e-6)


def test_sizes_of_all_kinds_follow_each_other(measure):
    """Of an odd number of few, the second of the last pair waits for the next few."""
    generator, draw = torch.Generator().manual_seed(3), noise.generator("torch", 3)
    for size in (3, 20, 4, 1, 16, 7, 33, 2):
        known = torch.randn(size, generator=generator).numpy()
        measure("torch's noise, mixed sizes", float(np.abs(draw((size,)) - known).max()), 1e-6)


@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (1, 4, 65, 65), (1, 3, 5, 1)])
def test_latents_are_drawn_channel_first(shape, measure):
    known = torch.randn(shape, generator=torch.Generator().manual_seed(9)).numpy()
    measure("torch's latents", float(np.abs(noise.generator("torch", 9)(shape[1:]) - known[0]).max()), 1e-6)


SETTINGS: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": GUIDANCE}
SETTINGS |= {"num_inference_steps": 8, "output_type": "latent"}


@pytest.fixture(scope="module")
def folder(shapes, tmp_path_factory):
    return families.write_folder("sd1", shapes["sd1"], tmp_path_factory.mktemp("folders") / "sd1")


def pipeline(folder: Any, kind: Any, sampler: str) -> Any:
    pipe = kind.from_pipe(reference.pipeline(folder))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = reference.scheduler(families.FAMILIES["sd1"]["scheduler"], sampler)
    return pipe


def ours(sd: Any, **settings: Any) -> Any:
    settings = {"steps": 8, "guidance": GUIDANCE, "output": "latent", "rng": "torch"} | settings
    return sd.generate(PROMPT, NEGATIVE, **settings).latents


@pytest.mark.parametrize("seed", [0, 42])
@pytest.mark.parametrize(("sampler", "options"), [("ddim", {"eta": 1.0}), ("euler_ancestral", {}), ("ddpm", {})])
def test_a_seed_of_torch_is_the_seed_of_the_pipeline(sampler, options, seed, folder, family, measure):
    """Start and fresh noise of every step, from the generator that the pipeline is called with."""
    pipe = pipeline(folder, diffusers.StableDiffusionPipeline, sampler)
    size = {"width": 72, "height": 56}  # 4 x 7 x 9 numbers, no whole groups of 16
    known = pipe(**SETTINGS, **size, **options, generator=torch.Generator().manual_seed(seed)).images
    found = ours(family("sd1"), sampler=sampler, seed=seed, **size, **options)
    measure("pipeline call, torch's seed", families.distance(found, reference.last(known)), 1e-3)


@pytest.mark.parametrize(("sampler", "options"), [("ddim", {"eta": 1.0}), ("euler_ancestral", {})])
def test_an_image_is_encoded_with_the_first_noise_of_the_seed(sampler, options, folder, family, measure):
    pipe = pipeline(folder, diffusers.StableDiffusionImg2ImgPipeline, sampler)
    picture = Image.fromarray(np.random.RandomState(5).randint(0, 256, (48, 64, 3), np.uint8))
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    settings = {**SETTINGS, **options, "image": picture, "strength": 0.6, "num_images_per_prompt": 2}
    known = pipe(**settings, generator=generators).images
    found = ours(family("sd1"), image=picture, strength=0.6, sampler=sampler, seed=7, count=2, batch=2, **options)
    measure("image to image, torch's seeds", families.distance(found, reference.last(known)), 1e-3)
