"""diffusers reads the files of a training as our loader does: the same networks, pictures and embeddings."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import mlx.core as mx
import numpy as np
import pytest
import safetensors.torch
import torch

from mlx_sd.load import load
from mlx_sd.pipeline import StableDiffusion
from mlx_sd.prompts.embeddings import Embedding, read
from mlx_sd.train.files import embedding_file, lora_file
from mlx_sd.train.files.base_model import BaseModel
from tests.support import families, reference, trained
from tests.support.families import distance

LIMIT = 1e-5
FAMILIES = ("sd1", "sd2v", "sdxl")
KNOWN = r"^(?!text_projection|add_embedding)"  # diffusers finds these under no name of kohya's
TOKEN = "<my-cat>"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # PEFT's, of patterns


@pytest.fixture(scope="module")
def models(saved) -> Callable:
    return lambda family: load(saved(family), "float32")


def pipeline(folder: Path) -> Any:
    return diffusers.DiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)


def network_outputs(model: Any, pipe: Any, family: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Network -> (ours, theirs) of the same inputs."""
    inputs = families.unet_inputs(families.FAMILIES[family]["unet"])
    ours = model.unet(**{name: mx.array(value) for name, value in inputs.items()})
    pairs = {"unet": (np.array(ours[0]), reference.unet(pipe.unet, inputs))}
    for number, encoder in enumerate(model.text_encoders):
        ids = model.tokenizers[number].chunks(families.PROMPT)
        part = "text_encoder_2" if number else "text_encoder"
        pairs[part] = np.array(encoder(mx.array(ids)).last), reference.text(getattr(pipe, part), ids)[1]
    return pairs


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "beside"])
@pytest.mark.parametrize("spelling", lora_file.SPELLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_networks_with_a_lora_are_diffusers(family, spelling, fused, saved, models, tmp_path, measure):
    base = models(family)
    layers = trained.layers(base, alpha=3.0, pattern=KNOWN)
    file = tmp_path / "trained.safetensors"
    lora_file.write(file, layers, BaseModel.of(base), spelling=spelling)
    pipe, scale = pipeline(saved(family)), 0.7
    before = network_outputs(base, pipe, family)
    pipe.load_lora_weights(file)
    if fused:
        pipe.fuse_lora(lora_scale=scale)
    else:
        pipe.set_adapters(pipe.get_active_adapters(), scale)
    ours = load(saved(family), "float32", [(file, scale)], lora_strict=True)
    for part, (mine, theirs) in network_outputs(ours, pipe, family).items():
        measure(f"trained LoRA, {spelling}: {part}", distance(mine, theirs), LIMIT)
        assert distance(mine, before[part][0]) > 1e-2


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_latents_with_a_lora_are_diffusers(family, saved, models, tmp_path, measure):
    file = tmp_path / "trained.safetensors"
    layers = trained.layers(models(family), pattern=r"attn|proj_in|conv1|mlp")
    lora_file.write(file, layers, BaseModel.of(models(family)))
    pipe, noise = pipeline(saved(family)), families.noise()
    pipe.load_lora_weights(file)
    pipe.fuse_lora()
    reference.silent(pipe)
    pipe.scheduler = reference.scheduler(families.FAMILIES[family]["scheduler"], "ddim", "leading")
    theirs = reference.generate(pipe, noise, num_inference_steps=4)
    sd, (_, height, width, _) = StableDiffusion(load(saved(family), "float32", [(file, 1.0)])), noise.shape
    factor = sd.vae.config.downsampling
    ours = sd.generate(
        families.PROMPT,
        families.NEGATIVE,
        seed=families.SEED,
        steps=4,
        guidance=families.GUIDANCE,
        sampler="ddim",
        schedule="leading",
        width=width * factor,
        height=height * factor,
        latents=mx.array(noise),
        output="latent",
    ).latents
    measure("latents with a trained LoRA", distance(ours, theirs), LIMIT)


def test_the_hash_is_that_of_torchs_own_file(models, tmp_path):
    """As kohya's scripts compute it: over the bytes that the library packs from torch's tensors."""
    file = tmp_path / "trained.safetensors"
    lora_file.write(file, trained.layers(models("sd1")), BaseModel.of(models("sd1")))
    packed = safetensors.torch.save(safetensors.torch.load_file(file), {"ss_v2": "False"})
    digest = hashlib.sha256(packed[8 + int.from_bytes(packed[:8], "little") :]).hexdigest()
    with safetensors.safe_open(file, "pt") as opened:
        assert opened.metadata()["sshs_model_hash"] == digest


# ------------------------------------------------------------------------------------------------ embeddings


def table(pipe: Any, part: str, count: int) -> np.ndarray:
    """The rows that diffusers has for the word and its further vectors."""
    number = "_2" if part.endswith("_2") else ""
    words = [TOKEN, *(f"{TOKEN}_{row}" for row in range(1, count))]
    ids = getattr(pipe, f"tokenizer{number}").convert_tokens_to_ids(words)
    return getattr(pipe, part).get_input_embeddings().weight[torch.tensor(ids)].numpy()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("format", embedding_file.FORMATS)
def test_diffusers_has_the_vectors_bit_for_bit(format, count, saved, models, tmp_path):
    made = families.numbers("vectors", count, 32)
    file = tmp_path / "my-cat.safetensors"
    embedding_file.write(file, TOKEN, {"text_encoder": mx.array(made)}, format, BaseModel.of(models("sd1")))
    pipe = pipeline(saved("sd1"))
    pipe.load_textual_inversion(file, token=None if format == "diffusers" else TOKEN)
    assert (table(pipe, "text_encoder", count) == made).all()
    assert (np.array(read(Embedding(str(file)), [32]).arrays[0]) == made).all()


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_has_both_of_sdxls_bit_for_bit(count, saved, models, tmp_path):
    made = {"clip_l": families.numbers("l", count, 32), "clip_g": families.numbers("g", count, 48)}
    file = tmp_path / "my-cat.safetensors"
    vectors = {key: mx.array(value) for key, value in made.items()}
    embedding_file.write(file, TOKEN, vectors, base=BaseModel.of(models("sdxl")))
    pipe, state = pipeline(saved("sdxl")), safetensors.torch.load_file(file)
    for key, number in {"clip_l": "", "clip_g": "_2"}.items():
        encoder, tokenizer = getattr(pipe, f"text_encoder{number}"), getattr(pipe, f"tokenizer{number}")
        pipe.load_textual_inversion(state[key], token=TOKEN, text_encoder=encoder, tokenizer=tokenizer)
        assert (table(pipe, f"text_encoder{number}", count) == made[key]).all()


@pytest.mark.parametrize("format", embedding_file.FORMATS)
def test_a_prompt_with_the_word_is_encoded_as_diffusers_does(format, saved, models, tmp_path, measure):
    made = families.numbers("vectors", 2, 32)
    file = tmp_path / "my-cat.safetensors"
    embedding_file.write(file, TOKEN, {"text_encoder": mx.array(made)}, format)
    pipe = pipeline(saved("sd1"))
    pipe.load_textual_inversion(file, token=None if format == "diffusers" else TOKEN)
    theirs, _ = pipe.encode_prompt(f"a {TOKEN} on grass", "cpu", 1, False)
    ours, _ = StableDiffusion(models("sd1")).encode_prompt(f"a {TOKEN} on grass", embeddings=[(file, TOKEN)])
    measure("prompt with a trained embedding", distance(np.array(ours), theirs.numpy()), LIMIT)
