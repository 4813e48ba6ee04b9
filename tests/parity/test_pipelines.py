"""diffusers' own pipelines, called, against `generate` on the same folder and the same noise."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_sd import DeepCache
from tests.support import families, reference
from tests.support.families import FAMILIES, GUIDANCE, NEGATIVE, PROMPT, SEED, STEPS, distance

TEXT, LATENTS = 1e-5, 1e-3
TEXTS = ("sd1", "sd2v", "sdxl")
LONG = "a red tent on green grass, a dark stormy sky, it's 1234! " * 11

# One sampler of each kind goes through whole pipelines; test_samplers.py compares every one with its scheduler.
SAMPLERS = ("ddim", "dpmpp_2m", "euler", "euler_ancestral", "plms")
SCHEDULES = ("leading", "linspace", "trailing", "diffusers_karras")
# Where one step is one evaluation: the authors' helper counts timesteps.
ONCE = [name for name in SAMPLERS if name != "plms"]
INTERVALS = [(2, 0), (3, 0), (2, 1), (3, 2), (5, 4), (3, 5)]  # of DeepCache, with the branch


@pytest.fixture
def pipe(saved):
    return lambda name: reference.pipeline(saved(name))


def ours(sd: Any, noise: np.ndarray, negative: str | None = NEGATIVE, prompt: str = PROMPT, **settings: Any) -> Any:
    factor, (_, height, width, _) = sd.vae.config.downsampling, noise.shape
    given = {"seed": SEED, "steps": STEPS, "guidance": GUIDANCE, "width": width * factor, "height": height * factor}
    given |= {"latents": mx.array(noise), "output": "latent"}
    return sd.generate(prompt, negative, **(given | settings))


@pytest.mark.parametrize("name", TEXTS)
def test_the_checkpoint_s_own_sampler(name, pipe, family, measure):
    error = distance(ours(family(name), families.noise()).latents, reference.generate(pipe(name), families.noise()))
    measure("pipeline call, own sampler", error, LATENTS)


def test_what_sdxl_takes_beside_a_prompt(pipe, family, measure):
    noise, pipeline, sd, few = families.noise(), pipe("sdxl"), family("sdxl"), {"steps": 5}
    plain = np.array(ours(sd, noise, **few).latents)
    texts = {"prompt_2": "a moon", "negative_2": "rain"}
    sizes = {"original_size": (96, 32), "target_size": (128, 48), "crop": (5, 9)}
    theirs = reference.generate(pipeline, noise, num_inference_steps=5, prompt_2="a moon", negative_prompt_2="rain")
    measure("SDXL's second prompt", distance(ours(sd, noise, **few, **texts).latents, theirs), LATENTS)
    theirs = reference.generate(
        pipeline,
        noise,
        num_inference_steps=5,
        original_size=(32, 96),
        target_size=(48, 128),
        crops_coords_top_left=(9, 5),
    )
    measure("SDXL's sizes and crop", distance(ours(sd, noise, **few, **sizes).latents, theirs), LATENTS)
    for name, value in (texts | sizes).items():
        assert distance(ours(sd, noise, **few, **{name: value}).latents, plain) > 1e-4, name


@pytest.mark.parametrize(("guidance", "adaptive"), [(GUIDANCE, 0.0), (0.0, 0.0), (GUIDANCE, 0.04)])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_perturbed_attention_guidance(name, guidance, adaptive, saved, family, measure):
    kind = getattr(reference.diffusers, f"StableDiffusion{'XL' * (name == 'sdxl')}PAGPipeline")
    noise, sd = families.noise((16, 24)), family(name)  # random networks need a large scale to be moved
    pipeline = reference.silent(kind.from_pretrained(saved(name)))
    settings = {"guidance_scale": guidance, "pag_scale": 60.0, "pag_adaptive_scale": adaptive}
    theirs = reference.generate(pipeline, noise, num_inference_steps=5, **settings)
    result = ours(sd, noise, steps=5, guidance=guidance, pag=60.0, pag_adaptive=adaptive)
    measure("perturbed-attention guidance", distance(result.latents, theirs), LATENTS)
    assert distance(ours(sd, noise, steps=5, guidance=guidance).latents, theirs) > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", TEXTS)
def test_every_sampler_put_into_the_pipeline(name, sampler, pipe, family, measure):
    made = pipe(name)
    for schedule in [s for s in SCHEDULES if reference.supports(sampler, s)]:
        made.scheduler = reference.scheduler(FAMILIES[name]["scheduler"], sampler, schedule)
        theirs = reference.generate(made, families.noise(), num_inference_steps=6)
        found = ours(family(name), families.noise(), steps=6, sampler=sampler, schedule=schedule).latents
        measure("pipeline call, every sampler", distance(found, theirs), LATENTS)


@pytest.mark.parametrize("size", [(9, 13), (5, 8), (16, 4)])
@pytest.mark.parametrize("name", TEXTS)
def test_sizes_whose_latents_are_odd(name, size, pipe, saved, modules, family, measure):
    noise = families.noise(size)
    if name == "sd1":
        theirs = reference.generate(pipe(name), noise, num_inference_steps=6)
    else:  # the pipeline insists on pixels that divide by 8, whatever the VAE
        made = reference.scheduler(FAMILIES[name]["scheduler"])
        theirs = reference.guided(saved(name), modules(name), made, noise, steps=6)
    measure("pipeline call, odd sizes", distance(ours(family(name), noise, steps=6).latents, theirs), LATENTS)


@pytest.mark.parametrize("name", TEXTS)
def test_guidance_rescale_and_guidance_that_is_off(name, pipe, family, measure):
    made, noise = pipe(name), families.noise()
    for rescale in (0.3, 0.7, 1.0):
        theirs = reference.generate(made, noise, num_inference_steps=6, guidance_rescale=rescale)
        error = distance(ours(family(name), noise, steps=6, guidance_rescale=rescale).latents, theirs)
        measure("pipeline call, guidance rescale", error, LATENTS)
    for guidance in (1.0, 0.5, 1.5, 20.0):
        theirs = reference.generate(made, noise, num_inference_steps=6, guidance_scale=guidance)
        error = distance(ours(family(name), noise, steps=6, guidance=guidance).latents, theirs)
        measure("pipeline call, guidance", error, LATENTS)


@pytest.mark.parametrize("name", TEXTS)
def test_clip_skip_and_no_negative_prompt(name, pipe, family, measure):
    made, noise = pipe(name), families.noise()
    for skip in (1,) if name == "sdxl" else (1, 2):
        theirs = reference.generate(made, noise, num_inference_steps=6, clip_skip=skip)
        error = distance(ours(family(name), noise, steps=6, clip_skip=skip).latents, theirs)
        measure("pipeline call, clip skip", error, LATENTS)
    for negative in (None, ""):
        theirs = reference.generate(made, noise, num_inference_steps=6, negative_prompt=negative)
        error = distance(ours(family(name), noise, negative, steps=6).latents, theirs)
        measure("pipeline call, empty negative", error, LATENTS)


@pytest.mark.parametrize("name", TEXTS)
def test_several_pictures_at_once(name, pipe, family, measure):
    noise = families.noise(batch=3)
    theirs = reference.generate(pipe(name), noise, num_inference_steps=6, num_images_per_prompt=3)
    for batch in (1, 3):
        found = ours(family(name), noise, steps=6, batch=batch).latents
        measure("pipeline call, three pictures", distance(found, theirs), LATENTS)


@pytest.mark.parametrize("name", TEXTS)
def test_pictures_are_those_of_the_pipeline_to_a_rounding(name, pipe, family, measure):
    # Of few steps: random weights make latents that saturate the decoder.
    theirs = pipe(name)(PROMPT, num_inference_steps=3, guidance_scale=1.0, latents=reference.first(families.noise()))
    found = ours(family(name), families.noise(), None, steps=3, guidance=1.0, output="image").images[0]
    assert found.size == theirs.images[0].size
    gap = np.abs(np.asarray(found, int) - np.asarray(theirs.images[0], int)).max()
    measure("pictures, of 255", float(gap) / 255, 1 / 255)


# Every family has every interval, and every sampler has every family and at least four of the intervals.
@pytest.mark.parametrize(("interval", "branch"), INTERVALS)
@pytest.mark.parametrize("name", TEXTS)
def test_the_authors_deepcache_around_the_pipeline(name, interval, branch, pipe, family, measure):
    made, noise = pipe(name), families.noise()
    sampler = ONCE[(INTERVALS.index((interval, branch)) + TEXTS.index(name)) % len(ONCE)]
    made.scheduler = reference.scheduler(FAMILIES[name]["scheduler"], sampler)
    with reference.deepcache(made, interval, branch):
        theirs = reference.generate(made, noise, num_inference_steps=8)
    result = ours(family(name), noise, steps=8, sampler=sampler, deepcache=DeepCache(interval, branch))
    measure("the authors' DeepCache", distance(result.latents, theirs), LATENTS)


@pytest.mark.parametrize("name", TEXTS)
def test_encode_prompt(name, pipe, family, measure):
    made, sd = pipe(name), family(name)
    for text in (PROMPT, "", "<|endoftext|> it's über-naïve 🙂", LONG[:200]):
        for skip in (None, 1):
            given = {"prompt": text, "device": "cpu", "num_images_per_prompt": 1, "clip_skip": skip}
            found = made.encode_prompt(do_classifier_free_guidance=True, negative_prompt=None, **given)
            context, pooled = sd.encode_prompt(text, clip_skip=skip or 0)
            measure("encode_prompt", distance(context, found[0].numpy()), TEXT)
            if name == "sdxl":
                measure("encode_prompt, pooled", distance(pooled, found[2].numpy()), TEXT)
                assert not found[1].any() and not found[3].any()
                assert sd.model.zeros_for_empty


@pytest.mark.parametrize("name", TEXTS)
def test_long_prompts_are_encoded_in_chunks(name, saved, family, modules, measure):
    contexts = []
    for part in [p for p in modules(name) if p.startswith("text")]:
        tokenizer = reference.CLIPTokenizer.from_pretrained(saved(name) / part.replace("text_encoder", "tokenizer"))
        ids = tokenizer(LONG, add_special_tokens=False)["input_ids"]
        assert len(ids) > 2 * 75
        start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        pieces = [ids[i : i + 75] for i in range(0, len(ids), 75)]
        rows = [[start, *piece, end] + [pad] * (75 - len(piece)) for piece in pieces]
        found = [reference.text(modules(name)[part], [row]) for row in rows]
        chosen = [hidden[-2] if name == "sdxl" else last for hidden, last, _ in found]
        contexts.append(np.concatenate(chosen, axis=1))
        pooled = found[0][2]
    context, ours_pooled = family(name).encode_prompt(LONG, prompt_style="plain")
    measure("prompts of many chunks", distance(context, np.concatenate(contexts, axis=-1)), TEXT)
    if name == "sdxl":
        measure("prompts of many chunks", distance(ours_pooled, pooled), TEXT)


@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_nine_channel_inpainting_loop(size, saved, family, modules, measure):
    noise, beside = families.noise(size), families.beside(size)
    for sampler in SAMPLERS:
        made = reference.scheduler(FAMILIES["inpaint9"]["scheduler"], sampler)
        theirs = reference.guided(saved("inpaint9"), modules("inpaint9"), made, noise, steps=6, beside=beside)
        found = ours(family("inpaint9"), noise, steps=6, sampler=sampler, channels=mx.array(beside)).latents
        measure("inpainting, nine channels", distance(found, theirs), LATENTS)


def test_the_guidance_embedding_of_consistency_models(pipe, measure):
    from mlx_sd.conditions import guidance_embedding

    for scale in (1.0, 1.5, 7.5, 14.0):
        theirs = pipe("sd1").get_guidance_scale_embedding(torch.tensor([scale - 1]), 256)
        # Angles go up to 13,000, of which float32 keeps 1e-3.
        measure("guidance embedding", distance(guidance_embedding(scale, 256), theirs.numpy()), 1e-3)
