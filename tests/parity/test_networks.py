"""Networks saved by diffusers and transformers themselves, in every way they save, load and compute the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.sources import diffusers_folder
from convert.writers.model_folder import write_model_folder
from mlx_sd import StableDiffusion
from mlx_sd.networks.unet import concatenate
from tests.support import families, reference, upscalers
from tests.support.families import FAMILIES, UNETS, distance

NETWORK = 1e-5


def save(name: str, parts: dict[str, Any], folder: Path, **how: Any) -> Path:
    for part, network in parts.items():
        network.save_pretrained(folder / part, **how)
    families.write_rest(FAMILIES[name], folder)
    return folder


def rename(folder: Path, rule: Callable[[str], str], extra: dict[str, torch.Tensor] | None = None) -> None:
    (file,) = folder.glob("*.safetensors")
    save_file({rule(name): value for name, value in load_file(file).items()} | (extra or {}), file, {"format": "pt"})


def check(name: str, parts: dict[str, Any], sd: StableDiffusion, measure: Any, how: str = "") -> None:
    inputs = families.unet_inputs(FAMILIES[name]["unet"])
    ours = sd.unet(**{key: mx.array(value) for key, value in inputs.items()})[0]
    measure(f"unet{how}", distance(ours, reference.unet(parts["unet"], inputs)), NETWORK)
    for part, encoder in zip([p for p in parts if p.startswith("text")], sd.model.text_encoders, strict=True):
        ids = [sd.tokenizer.chunks(text)[0] for text in (families.PROMPT, "", families.PROMPT * 9)]
        hidden, last, pooled = reference.text(parts[part], ids)
        encoded = encoder(mx.array(ids))
        errors = [distance(a, b) for a, b in zip([*encoded.hidden, encoded.last], [*hidden, last], strict=True)]
        measure(f"text encoder{how}", max(errors), NETWORK)
        measure(f"pooled text{how}", distance(encoded.pooled, pooled), NETWORK)
    mean, log_variance = reference.encode(parts["vae"], families.image())
    our_mean, our_log_variance = sd.vae.encode(mx.array(families.image()))
    measure(f"vae encode{how}", max(distance(our_mean, mean), distance(our_log_variance, log_variance)), NETWORK)
    z = families.small_latents()
    measure(f"vae decode{how}", distance(sd.vae.decode(mx.array(z)), reference.decode(parts["vae"], z)), NETWORK)


@pytest.mark.parametrize("how", [{}, {"max_shard_size": "200KB"}], ids=["one file", "sharded"])
@pytest.mark.parametrize("name", FAMILIES)
def test_as_save_pretrained_writes_it(name, how, modules, tmp_path, measure):
    folder = save(name, modules(name), tmp_path / name, **how)
    assert bool(list(folder.glob("unet/*.index.json"))) == bool(how)
    check(name, modules(name), StableDiffusion.load(folder, dtype="float32"), measure)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_fp16_variant(name, sharded, tmp_path, measure):
    parts = {part: network.half() for part, network in reference.modules(name).items()}
    how = {"max_shard_size": "200KB"} if sharded else {}
    folder = save(name, parts, tmp_path / name, variant="fp16", **how)
    assert list(folder.glob("unet/*.fp16*"))
    write_model_folder(diffusers_folder.read(folder, "fp16"), tmp_path / "converted", {})
    parts = {part: network.float() for part, network in parts.items()}
    check(name, parts, StableDiffusion.load(tmp_path / "converted", dtype="float32"), measure, ", fp16 variant")
    half = StableDiffusion.load(folder, dtype="float16")
    weight = half.unet.conv.weight
    assert weight.dtype == mx.float16
    assert np.array_equal(np.array(weight), parts["unet"].conv_out.weight.half().permute(0, 2, 3, 1).numpy())


_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_attention(name: str) -> str:
    for new, old in _OLD.items():
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_older_versions(name, modules, tmp_path, measure):
    folder = save(name, modules(name), tmp_path / name)
    rename(folder / "vae", old_attention)
    for part in [p for p in modules(name) if p.startswith("text")]:
        positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}

        def prefixed(key: str) -> str:
            inside = key.removeprefix("text_model.")
            return inside if inside.startswith("text_projection") else f"text_model.{inside}"

        rename(folder / part, prefixed, positions)
    check(name, modules(name), StableDiffusion.load(folder, dtype="float32"), measure, ", old names")


@pytest.mark.parametrize("name", FAMILIES)
def test_text_encoders_without_a_prefix(name, modules, tmp_path, measure):
    folder = save(name, modules(name), tmp_path / name)
    for part in [p for p in modules(name) if p.startswith("text")]:
        rename(folder / part, lambda key: key.removeprefix("text_model."))
    check(name, modules(name), StableDiffusion.load(folder, dtype="float32"), measure, ", old names")


@pytest.mark.parametrize("name", UNETS)
def test_every_variation_of_the_unet(name, modules, tmp_path, measure):
    network = reference.module("unet", UNETS[name])
    folder = save("sd1", modules("sd1") | {"unet": network}, tmp_path / name)
    if name == "upscaler":
        upscalers.write_low_res(folder)
    unet = StableDiffusion.load(folder, dtype="float32").unet
    for size in ((8, 8), (9, 13), (1, 1), (3, 16)):
        inputs = families.unet_inputs(UNETS[name], size)
        ours = unet(**{key: mx.array(value) for key, value in inputs.items()})[0]
        measure("unet variations, any size", distance(ours, reference.unet(network, inputs)), NETWORK)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_residuals_act_as_a_control_network_s(name, size, modules, tmp_path, measure):
    unet = StableDiffusion.load(save(name, modules(name), tmp_path / name), dtype="float32").unet
    inputs = families.unet_inputs(FAMILIES[name]["unet"], size)
    arrays: dict[int, np.ndarray] = {}

    def join(x: mx.array, skip: mx.array, number: int) -> mx.array:
        arrays[number] = families.numbers(f"residual {number}", *skip.shape)
        return concatenate(x, skip, number)

    ours = {key: mx.array(value) for key, value in inputs.items()}
    unet(**ours, join=join)  # for the skips' shapes
    skips = [arrays[number] for number in range(len(arrays))]
    middle = families.numbers("middle residual", *skips[-1].shape)
    prediction, _ = unet(**ours, skip_residuals=[mx.array(a) for a in skips], middle_residual=mx.array(middle))
    theirs = reference.unet(modules(name)["unet"], inputs, skips, middle)
    measure("unet with residuals", distance(prediction, theirs), NETWORK)
    assert distance(prediction, reference.unet(modules(name)["unet"], inputs)) > 0.1


@pytest.mark.parametrize(("name", "tile"), [("sd1", 32), ("sd1", 64), ("sdxl", 16), ("sdxl", 32)])
def test_vae_tiles_are_blended_as_diffusers_blends_them(name, tile, modules, tmp_path, measure):
    vae = StableDiffusion.load(save(name, modules(name), tmp_path / name), dtype="float32").vae
    factor, network = vae.config.downsampling, modules(name)["vae"]
    for height, width in ((64, 64), (72, 40), (40, 104), (16, 32), (24, 16), (136, 24), (200, 72)):
        z = families.numbers("tiled", 2, height // factor, width // factor, 4)
        ours = vae.decode(mx.array(z), tile=tile)
        measure("vae decode, tiled", distance(ours, reference.decode(network, z, tile)), NETWORK)
        image = families.numbers("tiled image", 1, height, width, 3)
        mean, log_variance = reference.encode(network, image, tile)
        our_mean, our_log_variance = vae.encode(mx.array(image), tile=tile)
        measure("vae encode, tiled", distance(our_mean, mean), NETWORK)
        measure("vae encode, tiled", distance(our_log_variance, log_variance), NETWORK)
