"""Single files and diffusers: its own reader finds in ours what we find, and its pipelines load what we write back."""

import diffusers
import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file

from convert import __main__ as command
from convert.files.diffusers_names import current_name
from convert.sources.checkpoint import SourceOptions
from convert.sources.open_checkpoint import open_checkpoint
from mlx_sd import StableDiffusion
from tests.support import families, reference, singles


@pytest.fixture
def tokenizer(tmp_path):
    families.write_tokenizer(tmp_path / "tokenizer", "!")
    return tmp_path / "tokenizer"


def state(arrays):
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def same(theirs, ours):
    """Whether two networks are called and hold the same, in today's names."""
    theirs = {today: value for name, value in theirs.items() if (today := current_name(name)) is not None}
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        assert np.array_equal(value.numpy().reshape(ours[name].shape), np.array(ours[name].read())), name


def config(network):
    values = network.config.to_dict() if hasattr(network.config, "to_dict") else dict(network.config)
    return {key: value for key, value in values.items() if key not in ("_name_or_path", "_use_default_values")}


@pytest.mark.parametrize("name", singles.NAMES)
def test_diffusers_reads_our_file_as_we_do(name, shapes, tmp_path, tokenizer):
    """LDM names written from configs, read back by diffusers' converters and by convert.ldm: three routes agree."""
    file, weights = singles.write(name, shapes, tmp_path / "x.safetensors")
    configs, _ = singles.parts(name, shapes)
    ours = open_checkpoint(str(file), SourceOptions(tokenizer=tokenizer)).components
    every = load_file(file)
    for part, arrays in weights.items():
        same(state(arrays), ours[part].tensors)

    unet = configs["unet"] | {"class_embed_type": None}
    found = single_file_utils.convert_ldm_unet_checkpoint(dict(every), config=unet)
    if name == "upscaler":  # diffusers' reader has no line for the class table
        found["class_embedding.weight"] = every["model.diffusion_model.label_emb.weight"]
    same(found, ours["unet"].tensors)
    same(single_file_utils.convert_ldm_vae_checkpoint(dict(every), config=configs["vae"]), ours["vae"].tensors)
    for part in [p for p in configs if p.startswith("text")]:
        network = reference.module(part, configs[part])
        prefix = _PREFIXES[name, part]
        if prefix.endswith("model."):
            kept = {k: v for k, v in every.items() if ".resblocks.3." not in k}  # it drops the last by its number, 23
            found = single_file_utils.convert_open_clip_checkpoint(network, kept, prefix=prefix)
        else:
            found = single_file_utils.convert_ldm_clip_checkpoint(dict(every), remove_prefix=prefix)
        if not configs[part]["architectures"][0].endswith("Projection"):
            found.pop("text_projection.weight", None)
        same(found, ours[part].tensors)


_PREFIXES = {
    ("sd1", "text_encoder"): "cond_stage_model.transformer.",
    ("inpaint9", "text_encoder"): "cond_stage_model.transformer.",
    ("sd2v", "text_encoder"): "cond_stage_model.model.",
    ("upscaler", "text_encoder"): "cond_stage_model.model.",
    ("sdxl", "text_encoder"): "conditioner.embedders.0.transformer.",
    ("sdxl", "text_encoder_2"): "conditioner.embedders.1.model.",
    ("refiner", "text_encoder_2"): "conditioner.embedders.0.model.",
}


@pytest.mark.parametrize("name", families.FAMILIES)
def test_from_single_file_and_we_compute_the_same(name, shapes, tmp_path, tokenizer, measure):
    """diffusers reads the file itself, by the configs that we found; both then sample from it."""
    file, _ = singles.write(name, shapes, tmp_path / "x.safetensors")
    for flags in (["--out", str(tmp_path / "model")], ["--out", str(tmp_path / "folder"), "--to", "diffusers"]):
        assert command.main(["--model", str(file), "--tokenizer", str(tokenizer), *flags]) == 0
    how = {"config": str(tmp_path / "folder"), "local_files_only": True}
    unet = UNet2DConditionModel.from_single_file(file, subfolder="unet", **how)
    vae = AutoencoderKL.from_single_file(file, subfolder="vae", **how)
    pipe = reference.pipeline(tmp_path / "folder")
    for theirs, ours in ((unet, pipe.unet), (vae, pipe.vae)):
        assert theirs.state_dict().keys() == ours.state_dict().keys()
        for key, value in theirs.state_dict().items():
            assert torch.equal(value, ours.state_dict()[key]), key
    pipe.unet, pipe.vae = unet, vae
    sd = StableDiffusion.load(tmp_path / "model", "float32")
    if name == "inpaint9":  # its pipeline takes an image too; the network alone is compared
        inputs = families.unet_inputs(families.FAMILIES[name]["unet"])
        predicted = sd.unet(**{key: mx.array(value) for key, value in inputs.items()})[0]
        measure("single file, network", families.distance(predicted, reference.unet(unet, inputs)), 1e-5)
        return
    noise, side = families.numbers("noise", 1, 8, 8, 4), 8 * sd.vae.config.downsampling
    settings = {"steps": 5, "guidance": families.GUIDANCE, "seed": families.SEED, "width": side, "height": side}
    made = sd.generate(families.PROMPT, families.NEGATIVE, latents=mx.array(noise), output="latent", **settings)
    theirs = reference.generate(pipe, noise, num_inference_steps=5)
    measure("single file, latents", families.distance(made.latents, theirs), 1e-4)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_round_trip_loads_in_diffusers_with_the_same_arrays(name, modules, tmp_path):
    """save_pretrained -> model folder -> diffusers folder -> from_pretrained."""
    for part, network in modules(name).items():
        network.save_pretrained(tmp_path / "original" / part)
    families.write_rest(families.FAMILIES[name], tmp_path / "original")
    assert command.main(["--model", str(tmp_path / "original"), "--out", str(tmp_path / "model")]) == 0
    out = ["--out", str(tmp_path / "back")]
    assert command.main(["--model", str(tmp_path / "model"), "--to", "diffusers", *out]) == 0
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back")
    assert type(pipe).__name__ == families.FAMILIES[name]["pipeline"]["_class_name"]
    for part, network in modules(name).items():
        found = getattr(pipe, part).state_dict()
        assert found.keys() == network.state_dict().keys()
        for key, value in network.state_dict().items():
            assert torch.equal(found[key], value), (part, key)
        assert config(getattr(pipe, part)) == config(network)
    first = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "original")
    assert dict(pipe.scheduler.config) == dict(first.scheduler.config)
    one, two = (p.tokenizer(families.PROMPT, padding="max_length")["input_ids"] for p in (pipe, first))
    assert one == two
