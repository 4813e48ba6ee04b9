"""A single file of any kind is found out by its names and shapes and becomes what a diffusers folder would."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert import __main__ as command
from convert.files.diffusers_names import current_name
from convert.sources import configs_from_shapes, original_weights, single_file_kinds
from convert.sources.checkpoint import SourceOptions
from convert.sources.open_checkpoint import open_checkpoint
from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.sampling.scheduler import Scheduler
from tests.support import families, singles
from tests.support.effort import slow_but

FAMILY = {"sd2v": "sd2", "inpaint9": "sd1", "refiner": "sdxl-refiner"}


@pytest.fixture
def single(shapes, tmp_path):
    """single("sd1", **more tensors) is that kind's file and the weights it holds."""
    return lambda name, **extra: singles.write(name, shapes, tmp_path / "x.safetensors", **extra)


def change(file, rule):
    """Rewrites a file: rule(name, array) is a dict of what stands in its place."""
    save_file({n: a for name, array in load_file(file).items() for n, a in rule(name, array).items()}, file)


def same(component, weights):
    wanted = {current_name(name): array for name, array in weights.items()}
    assert component.tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.array_equal(np.array(component.tensors[name].read()).reshape(array.shape), array), name


@pytest.mark.parametrize("name", slow_but(["sd1", "sdxl", "inpaint9"], singles.NAMES))
def test_every_kind_is_told_apart_and_keeps_every_number(name, single, tokenizer):
    file, weights = single(name)
    found = open_checkpoint(str(file), SourceOptions(tokenizer=tokenizer))
    assert found.provenance["kind"] == FAMILY.get(name, name)
    assert found.components.keys() == weights.keys()
    for part, arrays in weights.items():
        same(found.components[part], arrays)


@pytest.mark.parametrize("name", slow_but(["sd2v"], singles.NAMES))
def test_configs_read_off_shapes_are_those_of_the_folder(name, single, shapes, tokenizer):
    """Up to what no shape tells: heads, groups and the size of pictures."""
    file, _ = single(name)
    found = open_checkpoint(str(file), SourceOptions(tokenizer=tokenizer)).components
    wanted, _ = singles.parts(name, shapes)
    free = {"attention_head_dim": 1, "norm_num_groups": 1, "sample_size": 1}
    ours, theirs = (UNetConfig.from_hf({**c, **free}) for c in (found["unet"].config, wanted["unet"]))
    assert ours == theirs
    for part in [p for p in wanted if p != "unet"]:
        ours, theirs = found[part].config, wanted[part]
        told = ours.keys() & theirs.keys() - {"norm_num_groups", "sample_size", "scaling_factor", "num_attention_heads"}
        told -= {"projection_dim", "eos_token_id"} if ours.get("architectures") == ["CLIPTextModel"] else set()
        assert {k: ours[k] for k in told} == {k: theirs[k] for k in told}


def in_single_files(config):
    return not config.get("class_embed_type") and config.get("resnet_time_scale_shift", "default") == "default"


@pytest.mark.parametrize("name", [name for name, config in families.UNETS.items() if in_single_files(config)])
def test_pruned_and_unusual_unets_are_read_off_their_names(name, shapes):
    config = families.UNETS[name]
    arrays = families.weights("unet", shapes["unets"][name])
    tensors = {n: Tensor(Path(), n, "F32", a.shape, 0, 0) for n, a in singles.unet(arrays, config).items()}
    renamed = original_weights.unet(tensors)
    assert renamed.keys() == arrays.keys()
    only_cross = config.get("only_cross_attention")
    only_cross = only_cross if isinstance(only_cross, list) else [bool(only_cross)] * len(config["block_out_channels"])
    found = configs_from_shapes.unet(renamed, "x", configs_from_shapes.head_size, only_cross)
    free = {"attention_head_dim": 1, "norm_num_groups": 1, "sample_size": 1, "addition_time_embed_dim": 8}
    told = {k: config[k] for k in ("flip_sin_to_cos", "freq_shift", "norm_eps") if k in config}
    assert UNetConfig.from_hf({**found, **told, **free}) == UNetConfig.from_hf({**config, **free})


def test_full_size_configs_have_the_heads_their_authors_gave_them():
    assert [configs_from_shapes.head_size(c) for c in (320, 640, 1280)] == [5, 10, 20]  # SD 2, SDXL
    assert [configs_from_shapes.head_size(c) for c in (768, 1024, 1280)] == [12, 16, 20]  # CLIP
    assert [configs_from_shapes.eight_heads(c) for c in (320, 640, 1280)] == [8, 8, 8]  # SD 1
    assert [configs_from_shapes.head_size(c) for c in (32, 96, 200)] == [1, 1, 2]


@pytest.mark.parametrize("name", single_file_kinds.KINDS)
def test_every_kind_has_a_scheduler_that_samples(name):
    kind = single_file_kinds.KINDS[name]
    scheduler = Scheduler.from_hf(kind.scheduler | {"prediction_type": kind.prediction})
    assert scheduler.problem is None and scheduler.sampler


@pytest.mark.slow
def test_a_file_generates_as_the_folder_it_is_converted_to(sd1, tokenizer, tmp_path, monkeypatch):
    """Through the cache, with the vocabulary from the hub's."""
    monkeypatch.setattr("convert.files.hub.vocabulary", lambda checkpoint: tokenizer)
    assert command.main(["--model", str(sd1), "--out", str(tmp_path / "out")]) == 0
    one, two = (
        StableDiffusion.load(m, "float32")
        .generate("a tent", steps=2, width=64, height=64, output="latent", seed=0)
        .latents
        for m in (sd1, tmp_path / "out")
    )
    assert mx.array_equal(one, two)
    assert json.loads((tmp_path / "out/tokenizer/tokenizer_config.json").read_text())["pad_token"] == "<|endoftext|>"


def test_what_is_found_is_said(sd1, tokenizer, tmp_path, capsys):
    flags = ["--model", str(sd1), "--tokenizer", str(tokenizer), "--prediction", "v_prediction", "--dtype", "float16"]
    assert command.main([*flags, "--out", str(tmp_path / "out")]) == 0
    assert "Stable Diffusion 1.x, v_prediction (by --prediction)" in capsys.readouterr().err
    about = json.loads((tmp_path / "out/model.json").read_text())
    assert about["scheduler"]["prediction_type"] == "v_prediction" and about["dtype"] == "float16"
    assert about["source"]["kind"] == "sd1" and list(about["source"]["sha256"]) == ["sd1.safetensors"]
    assert about["source"]["settings"] == {"prediction": "v_prediction", "tokenizer": str(tokenizer)}


# ------------------------------------------------------------------------------------------------ prediction


def _step(value):
    return {"global_step": np.array(value, np.int64)}


EMPTY = np.zeros(0, np.float32)


@pytest.mark.parametrize(
    ("extra", "metadata", "wanted", "likely"),
    [
        (_step(875000), {}, "epsilon", False),
        (_step(110000), {}, "v_prediction", False),
        ({"v_pred": EMPTY}, {}, "v_prediction", False),
        ({}, {"modelspec.prediction_type": "epsilon"}, "epsilon", False),
        ({}, {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "v_prediction", False),
        ({}, {}, "v_prediction", True),
        (_step(7), {}, "v_prediction", True),
    ],
)
def test_what_sd2_predicts_is_read_off_every_hint_there_is(
    extra, metadata, wanted, likely, shapes, tmp_path, tokenizer
):
    configs, weights = singles.parts("sd2v", shapes)
    file = tmp_path / "sd2.safetensors"
    save_file(singles.arrays("sd2v", configs, weights) | extra, file, metadata or None)
    found = open_checkpoint(str(file), SourceOptions(tokenizer=tokenizer))
    assert found.scheduler["prediction_type"] == wanted
    assert bool(found.warning) == likely and ("--prediction" in found.warning) == likely
    told = open_checkpoint(str(file), SourceOptions(tokenizer=tokenizer, prediction="epsilon"))
    assert told.scheduler["prediction_type"] == "epsilon" and not told.warning


@pytest.mark.parametrize(("deviation", "wanted"), [(0.05, "epsilon"), (0.2, "v_prediction")])
def test_without_a_hint_the_spread_of_one_norm_decides(deviation, wanted, sd1, tokenizer):
    bias = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    spread = np.array([deviation, -deviation] * 16, np.float32)

    def linear(name, array):  # which makes an SD 2 of an SD 1
        matrix = name.startswith("model.") and name.endswith(("proj_in.weight", "proj_out.weight"))
        array = array.reshape(array.shape[:2]) if matrix else array
        return {name: spread if name == bias else array}

    change(sd1, linear)
    found = open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer))
    assert found.provenance == found.provenance | {"kind": "sd2", "prediction": wanted}
    assert "spread" in found.warning


def test_zero_snr_keys_change_the_schedule(single, tokenizer):
    file, _ = single("sdxl", v_pred=EMPTY, ztsnr=EMPTY)
    scheduler = open_checkpoint(str(file), SourceOptions(tokenizer=tokenizer)).scheduler
    assert scheduler["prediction_type"] == "v_prediction" and scheduler["rescale_betas_zero_snr"] is True
    assert Scheduler.from_hf(scheduler, xl=True).problem is None


def test_playground_and_cosxl_bring_their_own_noise_levels(single, tokenizer):
    mean, std = (np.full((1, 4, 1, 1), value, np.float32) for value in (0.5, 2.0))
    found = open_checkpoint(str(single("sdxl", edm_mean=mean, edm_std=std)[0]), SourceOptions(tokenizer=tokenizer))
    assert found.provenance["kind"] == "playground"
    assert found.components["vae"].config["latents_mean"] == [0.5] * 4
    sigma = {"edm_vpred.sigma_max": np.array(90.0, np.float32)}
    found = open_checkpoint(str(single("sdxl", **sigma)[0]), SourceOptions(tokenizer=tokenizer))
    assert found.provenance["kind"] == "cosxl" and found.scheduler["sigma_max"] == 90.0


# ------------------------------------------------------------------------------------------------ parts and layouts


def test_ema_weights_are_taken_when_asked_for(sd1, tokenizer):
    weights = {n: a for n, a in load_file(sd1).items() if n.startswith("model.diffusion_model.")}
    ema = {f"model_ema.{n[6:].replace('.', '')}": a * 3 for n, a in weights.items()}
    with pytest.raises(InputError, match="has no EMA weights"):
        open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer, ema=True))
    save_file(load_file(sd1) | ema, sd1)
    plain = open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer))
    averaged = open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer, ema=True))
    assert "--ema takes" in plain.summary
    one, three = (np.array(c.components["unet"].tensors["conv_in.weight"].read()) for c in (plain, averaged))
    assert np.array_equal(one * 3, three)


@pytest.mark.parametrize("how", ["ldm", "ldm with loss", "diffusers", "old diffusers", "folder", "whole folder"])
def test_a_vae_may_come_from_elsewhere(how, sd1, shapes, tmp_path, tokenizer):
    config, other = families.FAMILIES["sd1"]["vae"], tmp_path / "vae.safetensors"
    weights = {n: a * 2 for n, a in families.weights("vae", shapes["sd1"]["vae"]).items()}
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    if how.startswith("ldm"):
        extra = {"loss.logvar": EMPTY, "model_ema.decay": EMPTY} if how.endswith("loss") else {}
        save_file(singles.vae(weights, config) | extra, other)
    elif how.endswith("diffusers"):
        swap = {f".{a}." if how.startswith("old") else "": f".{b}." for a, b in old.items()}
        renamed = {}
        for name, array in weights.items():
            for new, past in swap.items():
                name = name.replace(new, past) if new else name
            renamed[name] = array
        save_file(renamed, other)
    else:
        other = tmp_path / "folder"
        inside = other if how == "folder" else other / "vae"
        inside.mkdir(parents=True)
        (inside / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.5}))
        save_file(weights, inside / "diffusion_pytorch_model.safetensors")
    change(sd1, lambda name, array: {} if name.startswith("first_stage_model.") else {name: array})
    with pytest.raises(InputError, match=r"has no VAE; give one by --vae"):
        open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer))
    vae = open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer, vae=other)).components["vae"]
    same(vae, weights)
    assert vae.config["scaling_factor"] == (0.5 if "folder" in how else 0.18215)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_folder_takes_another_vae_too_and_keeps_its_scale(family, shapes, tmp_path):
    folder = families.write_folder(family, shapes[family], tmp_path / "folder")
    config, weights = families.FAMILIES[family]["vae"], families.weights("vae", shapes[family]["vae"])
    save_file(singles.vae({n: a * 2 for n, a in weights.items()}, config), tmp_path / "vae.safetensors")
    found = open_checkpoint(str(folder), SourceOptions(vae=tmp_path / "vae.safetensors")).components["vae"]
    same(found, {n: a * 2 for n, a in weights.items()})
    assert found.config.get("scaling_factor") == config.get("scaling_factor")


@pytest.mark.parametrize("form", slow_but(["OpenCLIP"], ["transformers", "OpenCLIP", "folder"]))
def test_text_encoders_may_come_from_elsewhere(form, single, shapes, tmp_path, tokenizer):
    file, weights = single("sdxl")
    change(file, lambda name, array: {} if name.startswith("conditioner.embedders.1.") else {name: array})
    with pytest.raises(
        InputError, match=r"no text encoder under conditioner.embedders.1.; give one by --text-encoder-2"
    ):
        open_checkpoint(str(file), SourceOptions(tokenizer=tokenizer))
    arrays, other = weights["text_encoder_2"], tmp_path / "clip_g.safetensors"
    if form == "folder":
        families.write_folder("sdxl", shapes["sdxl"], other := tmp_path / "folder")
    else:
        save_file(singles.open_clip(arrays) if form == "OpenCLIP" else arrays, other)
    same(
        open_checkpoint(str(file), SourceOptions(tokenizer=tokenizer, text_encoder_2=other)).components[
            "text_encoder_2"
        ],
        arrays,
    )


def test_a_unet_alone_becomes_a_checkpoint_with_the_rest(sd1, shapes, tmp_path, tokenizer):
    change(sd1, lambda n, a: {n[22:]: a} if n.startswith("model.diffusion_model.") else {})
    folder = families.write_folder("sd1", shapes["sd1"], tmp_path / "folder")
    found = open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer, vae=folder, text_encoder=folder))
    assert found.components.keys() == {"unet", "vae", "text_encoder"}


def test_merges_with_old_and_stray_names_are_read(sd1, tokenizer):
    """Text encoders without a level of their names, and tensors that belong to nothing."""

    def rule(name, array):
        return {name.replace("transformer.text_model.", "transformer."): array}

    change(sd1, rule)
    save_file(load_file(sd1) | {"embedding_manager.x": EMPTY, "cond_stage_model.transformer.logit_scale": EMPTY}, sd1)
    found = open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer))
    assert "1 tensors of no network are left out (embedding_manager.x)" in found.summary


def test_sd2_as_sgm_saves_it_is_read_too(single, tokenizer):
    file, weights = single("sd2v")
    change(file, lambda n, a: {n.replace("cond_stage_model.", "conditioner.embedders.0."): a})
    found = open_checkpoint(str(file), SourceOptions(tokenizer=tokenizer, kind="sd-turbo"))
    same(found.components["text_encoder"], weights["text_encoder"])
    assert found.scheduler["_class_name"] == "EulerAncestralDiscreteScheduler"


def test_an_sd2_text_encoder_that_lost_its_last_layer_keeps_all_others():
    names = ["ln_1.weight", "ln_1.bias"]
    for layers, left in ((24, 23), (23, 23), (4, 3)):
        tensors = {
            f"transformer.resblocks.{i}.{n}": Tensor(Path(), n, "F32", (4,), 0, 0) for i in range(layers) for n in names
        }
        assert len(original_weights.open_clip(tensors, penultimate=True)) == 2 * left
