"""A single file of any kind is found out by its names and shapes and becomes what a diffusers folder would."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert import __main__ as command
from convert import configs, kinds, names
from convert.checkpoint import Choices
from convert.source import read
from mlx_sd import StableDiffusion
from mlx_sd.config import UNetConfig
from mlx_sd.errors import InputError
from mlx_sd.files import Tensor
from mlx_sd.scheduler import Scheduler
from tests import families, singles

FAMILY = {"sd2v": "sd2", "inpaint9": "sd1", "refiner": "sdxl-refiner"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary") / "tokenizer"
    families.write_tokenizer(folder, "!")
    return folder


@pytest.fixture
def single(shapes, tmp_path):
    """single("sd1", **more tensors) is that kind's file and the weights it holds."""
    return lambda name, **extra: singles.write(name, shapes, tmp_path / "x.safetensors", **extra)


@pytest.fixture
def sd1(shapes, tmp_path):
    return singles.write("sd1", shapes, tmp_path / "sd1.safetensors")[0]


def change(file, rule):
    """Rewrites a file: rule(name, array) is a dict of what stands in its place."""
    save_file({n: a for name, array in load_file(file).items() for n, a in rule(name, array).items()}, file)


def same(component, weights):
    wanted = {names.today(name): array for name, array in weights.items()}
    assert component.tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.array_equal(np.array(component.tensors[name].read()).reshape(array.shape), array), name


@pytest.mark.parametrize("name", singles.NAMES)
def test_every_kind_is_told_apart_and_keeps_every_number(name, single, tokenizer):
    file, weights = single(name)
    found = read(str(file), Choices(tokenizer=tokenizer))
    assert found.provenance["kind"] == FAMILY.get(name, name)
    assert found.components.keys() == weights.keys()
    for part, arrays in weights.items():
        same(found.components[part], arrays)


@pytest.mark.parametrize("name", singles.NAMES)
def test_configs_read_off_shapes_are_those_of_the_folder(name, single, shapes, tokenizer):
    """Up to what no shape tells: heads, groups and the size of pictures."""
    file, _ = single(name)
    found = read(str(file), Choices(tokenizer=tokenizer)).components
    wanted, _ = singles.parts(name, shapes)
    free = {"attention_head_dim": 1, "norm_num_groups": 1, "sample_size": 1}
    ours, theirs = (UNetConfig.from_hf({**c, **free}) for c in (found["unet"].config, wanted["unet"]))
    assert ours == theirs
    for part in [p for p in wanted if p != "unet"]:
        ours, theirs = found[part].config, wanted[part]
        told = ours.keys() & theirs.keys() - {"norm_num_groups", "sample_size", "scaling_factor", "num_attention_heads"}
        told -= {"projection_dim", "eos_token_id"} if ours.get("architectures") == ["CLIPTextModel"] else set()
        assert {k: ours[k] for k in told} == {k: theirs[k] for k in told}


@pytest.mark.parametrize("name", families.UNETS)
def test_pruned_and_unusual_unets_are_read_off_their_names(name, shapes):
    config = families.UNETS[name]
    if config.get("class_embed_type") or config.get("resnet_time_scale_shift", "default") != "default":
        pytest.skip("no single file has it")
    arrays = families.weights("unet", shapes["unets"][name])
    tensors = {n: Tensor(Path(), n, "F32", a.shape, 0, 0) for n, a in singles.unet(arrays, config).items()}
    from convert import ldm

    renamed = ldm.unet(tensors)
    assert renamed.keys() == arrays.keys()
    only_cross = config.get("only_cross_attention")
    only_cross = only_cross if isinstance(only_cross, list) else [bool(only_cross)] * len(config["block_out_channels"])
    found = configs.unet(renamed, "x", configs.head_size, only_cross)
    free = {"attention_head_dim": 1, "norm_num_groups": 1, "sample_size": 1, "addition_time_embed_dim": 8}
    told = {k: config[k] for k in ("flip_sin_to_cos", "freq_shift", "norm_eps") if k in config}
    assert UNetConfig.from_hf({**found, **told, **free}) == UNetConfig.from_hf({**config, **free})


def test_full_size_configs_have_the_heads_their_authors_gave_them():
    assert [configs.head_size(c) for c in (320, 640, 1280)] == [5, 10, 20]  # SD 2, SDXL
    assert [configs.head_size(c) for c in (768, 1024, 1280)] == [12, 16, 20]  # CLIP
    assert [configs.eight_heads(c) for c in (320, 640, 1280)] == [8, 8, 8]  # SD 1
    assert [configs.head_size(c) for c in (32, 96, 200)] == [1, 1, 2]


@pytest.mark.parametrize("name", kinds.KINDS)
def test_every_kind_has_a_scheduler_that_samples(name):
    kind = kinds.KINDS[name]
    scheduler = Scheduler.from_hf(kind.scheduler | {"prediction_type": kind.prediction})
    assert scheduler.problem is None and scheduler.sampler


def test_a_file_generates_as_the_folder_it_is_converted_to(sd1, tokenizer, tmp_path, monkeypatch):
    """Through the cache, with the vocabulary from the hub's."""
    monkeypatch.setattr("convert.hub.vocabulary", lambda checkpoint: tokenizer)
    assert command.main(["--model", str(sd1), "--out", str(tmp_path / "out")]) == 0
    one, two = (
        StableDiffusion.load(m, "float32").generate("a tent", steps=2, width=64, height=64, output="latent").latents
        for m in (sd1, tmp_path / "out")
    )
    assert mx.array_equal(one, two)
    assert json.loads((tmp_path / "out/tokenizer/tokenizer_config.json").read_text())["pad_token"] == "<|endoftext|>"


def test_what_is_found_is_said(sd1, tokenizer, tmp_path, capsys):
    flags = ["--model", str(sd1), "--tokenizer", str(tokenizer), "--prediction", "v_prediction", "--dtype", "float16"]
    assert command.main([*flags, "--out", str(tmp_path / "out")]) == 0
    assert "Stable Diffusion 1.x, v_prediction (as you say)" in capsys.readouterr().err
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
    found = read(str(file), Choices(tokenizer=tokenizer))
    assert found.scheduler["prediction_type"] == wanted
    assert bool(found.guess) == likely and ("--prediction" in found.guess) == likely
    told = read(str(file), Choices(tokenizer=tokenizer, prediction="epsilon"))
    assert told.scheduler["prediction_type"] == "epsilon" and not told.guess


@pytest.mark.parametrize(("deviation", "wanted"), [(0.05, "epsilon"), (0.2, "v_prediction")])
def test_without_a_hint_the_spread_of_one_norm_decides(deviation, wanted, sd1, tokenizer):
    bias = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    spread = np.array([deviation, -deviation] * 16, np.float32)

    def linear(name, array):  # which makes an SD 2 of an SD 1
        matrix = name.startswith("model.") and name.endswith(("proj_in.weight", "proj_out.weight"))
        array = array.reshape(array.shape[:2]) if matrix else array
        return {name: spread if name == bias else array}

    change(sd1, linear)
    found = read(str(sd1), Choices(tokenizer=tokenizer))
    assert found.provenance == found.provenance | {"kind": "sd2", "prediction": wanted}
    assert "spread" in found.guess


def test_zero_snr_keys_change_the_schedule(single, tokenizer):
    file, _ = single("sdxl", v_pred=EMPTY, ztsnr=EMPTY)
    scheduler = read(str(file), Choices(tokenizer=tokenizer)).scheduler
    assert scheduler["prediction_type"] == "v_prediction" and scheduler["rescale_betas_zero_snr"] is True
    assert Scheduler.from_hf(scheduler, xl=True).problem is None


def test_playground_and_cosxl_bring_their_own_noise_levels(single, tokenizer):
    mean, std = (np.full((1, 4, 1, 1), value, np.float32) for value in (0.5, 2.0))
    found = read(str(single("sdxl", edm_mean=mean, edm_std=std)[0]), Choices(tokenizer=tokenizer))
    assert found.provenance["kind"] == "playground"
    assert found.components["vae"].config["latents_mean"] == [0.5] * 4
    sigma = {"edm_vpred.sigma_max": np.array(90.0, np.float32)}
    found = read(str(single("sdxl", **sigma)[0]), Choices(tokenizer=tokenizer))
    assert found.provenance["kind"] == "cosxl" and found.scheduler["sigma_max"] == 90.0


# ------------------------------------------------------------------------------------------------ parts and layouts


def test_ema_weights_are_taken_when_asked_for(sd1, tokenizer):
    weights = {n: a for n, a in load_file(sd1).items() if n.startswith("model.diffusion_model.")}
    ema = {f"model_ema.{n[6:].replace('.', '')}": a * 3 for n, a in weights.items()}
    with pytest.raises(InputError, match="has no EMA weights"):
        read(str(sd1), Choices(tokenizer=tokenizer, ema=True))
    save_file(load_file(sd1) | ema, sd1)
    plain = read(str(sd1), Choices(tokenizer=tokenizer))
    averaged = read(str(sd1), Choices(tokenizer=tokenizer, ema=True))
    assert "--ema takes" in plain.kind
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
        read(str(sd1), Choices(tokenizer=tokenizer))
    vae = read(str(sd1), Choices(tokenizer=tokenizer, vae=other)).components["vae"]
    same(vae, weights)
    assert vae.config["scaling_factor"] == (0.5 if "folder" in how else 0.18215)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_folder_takes_another_vae_too_and_keeps_its_scale(family, shapes, tmp_path):
    folder = families.write_folder(family, shapes[family], tmp_path / "folder")
    config, weights = families.FAMILIES[family]["vae"], families.weights("vae", shapes[family]["vae"])
    save_file(singles.vae({n: a * 2 for n, a in weights.items()}, config), tmp_path / "vae.safetensors")
    found = read(str(folder), Choices(vae=tmp_path / "vae.safetensors")).components["vae"]
    same(found, {n: a * 2 for n, a in weights.items()})
    assert found.config.get("scaling_factor") == config.get("scaling_factor")


@pytest.mark.parametrize("form", ["transformers", "OpenCLIP", "folder"])
def test_text_encoders_may_come_from_elsewhere(form, single, shapes, tmp_path, tokenizer):
    file, weights = single("sdxl")
    change(file, lambda name, array: {} if name.startswith("conditioner.embedders.1.") else {name: array})
    with pytest.raises(
        InputError, match=r"no text encoder under conditioner.embedders.1.; give one by --text-encoder-2"
    ):
        read(str(file), Choices(tokenizer=tokenizer))
    arrays, other = weights["text_encoder_2"], tmp_path / "clip_g.safetensors"
    if form == "folder":
        families.write_folder("sdxl", shapes["sdxl"], other := tmp_path / "folder")
    else:
        save_file(singles.open_clip(arrays) if form == "OpenCLIP" else arrays, other)
    same(read(str(file), Choices(tokenizer=tokenizer, text_encoder_2=other)).components["text_encoder_2"], arrays)


def test_a_unet_alone_becomes_a_checkpoint_with_the_rest(sd1, shapes, tmp_path, tokenizer):
    change(sd1, lambda n, a: {n[22:]: a} if n.startswith("model.diffusion_model.") else {})
    folder = families.write_folder("sd1", shapes["sd1"], tmp_path / "folder")
    found = read(str(sd1), Choices(tokenizer=tokenizer, vae=folder, text_encoder=folder))
    assert found.components.keys() == {"unet", "vae", "text_encoder"}


def test_merges_with_old_and_stray_names_are_read(sd1, tokenizer):
    """Text encoders without a level of their names, and tensors that belong to nothing."""

    def rule(name, array):
        return {name.replace("transformer.text_model.", "transformer."): array}

    change(sd1, rule)
    save_file(load_file(sd1) | {"embedding_manager.x": EMPTY, "cond_stage_model.transformer.logit_scale": EMPTY}, sd1)
    found = read(str(sd1), Choices(tokenizer=tokenizer))
    assert "1 tensors of no network are left out (embedding_manager.x)" in found.kind


def test_an_sd2_text_encoder_that_lost_its_last_layer_keeps_all_others():
    from convert import ldm

    names = ["ln_1.weight", "ln_1.bias"]
    for layers, left in ((24, 23), (23, 23), (4, 3)):
        tensors = {
            f"transformer.resblocks.{i}.{n}": Tensor(Path(), n, "F32", (4,), 0, 0) for i in range(layers) for n in names
        }
        assert len(ldm.open_clip(tensors, penultimate=True)) == 2 * left


# ------------------------------------------------------------------------------------------------ refusals


def _only(*names):
    return lambda arrays: dict.fromkeys(names, np.zeros((4, 4), np.float32))


def _without(prefix):
    return lambda arrays: {n: a for n, a in arrays.items() if not n.startswith(prefix)}


UNET = "model.diffusion_model."
REFUSED = {
    "kohya LoRA": (
        _only("lora_unet_down_blocks_0.lora_down.weight", "lora_unet_x.alpha"),
        "is a LoRA; give it by --lora",
    ),
    "PEFT LoRA": (_only("unet.down_blocks.0.to_q.lora_A.weight"), "is a LoRA; give it by --lora"),
    "old LoRA": (_only("unet.x.attn1.processor.to_q_lora.down.weight"), "is a LoRA; give it by --lora"),
    "LoHa": (_only("lora_unet_x.hada_w1_a"), "is a LoRA; give it by --lora"),
    "Flux": (_only("double_blocks.0.img_attn.qkv.weight"), "looks like Flux"),
    "Flux, whole": (_only(UNET + "double_blocks.0.img_attn.qkv.weight"), "looks like Flux"),
    "SD3": (_only(UNET + "joint_blocks.0.context_block.attn.qkv.weight"), "looks like Stable Diffusion 3"),
    "Cascade": (_only("down_blocks.0.0.channelwise.0.weight"), "looks like Stable Cascade"),
    "ControlNet": (_only("control_model.input_hint_block.0.weight"), "is a ControlNet"),
    "embedding": (_only("emb_params"), "is a textual inversion"),
    "diffusion transformer": (_only("blocks.0.self_attn.q.weight"), "looks like a diffusion transformer"),
    "VQ": (
        lambda a: a | _only("first_stage_model.quantize.embedding.weight")(a),
        "looks like an early latent diffusion",
    ),
    "VAE": (
        lambda a: {n[18:]: x for n, x in a.items() if n.startswith("first_stage_model.")},
        "is a VAE; give it by --vae",
    ),
    "text encoder": (
        lambda a: {n[29:]: x for n, x in a.items() if n.startswith("cond_stage_model.transformer.")},
        "is a text encoder",
    ),
    "anything": (_only("weight"), "is not a Stable Diffusion checkpoint"),
    "8 channels": (
        lambda a: a | {UNET + "input_blocks.0.0.weight": np.zeros((32, 8, 3, 3), np.float32)},
        "a UNet of 8 input channels",
    ),
    "half a UNet": (_without(UNET + "output_blocks"), "4 levels going down and 0 going up, not a UNet"),
    "a block less": (_without(UNET + "input_blocks.4.1"), "no down_blocks.1.attentions.0."),
    "missing weight": (_without(UNET + "time_embed.2.bias"), "1 missing (time_embedding.linear_2.bias)"),
    "unexpected weight": (lambda a: a | _only(UNET + "extra.weight")(a), "1 unexpected (extra.weight)"),
    "no text encoder": (_without("cond_stage_model."), "give one by --text-encoder"),
    "half a VAE": (_without("first_stage_model.encoder."), "not a whole VAE"),
    "scalar": (lambda a: a | {UNET + "input_blocks.0.0.weight": np.zeros((), np.float32)}, "no conv_in.weight to read"),
    "wrong type": (lambda a: a | {UNET + "out.2.bias": np.zeros(4, np.float64)}, "out.2.bias is of type F64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_checkpoint_is_refused_in_one_line(name, sd1, tokenizer, tmp_path, capsys):
    spoil, message = REFUSED[name]
    save_file(spoil(load_file(sd1)), sd1)
    code = command.main(["--model", str(sd1), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "out")])
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if "Stable Diffusion 1.x, " not in line]
    assert code == 2 and len(lines) == 1 and message in lines[0], err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.gguf", b"GGUF\x03\x00\x00\x00\x00", "is a GGUF file"),
        ("x.safetensors", b"GGUF\x03\x00\x00\x00\x00", "is a GGUF file"),
        ("x.ckpt", b"whatever", "is a pickle, which can run code when opened"),
        ("x.pt", b"", "is a pickle, which can run code when opened"),
        ("x.bin", b"PK\x03\x04", "convert it in a sandbox"),
        ("x.safetensors", b"PK\x03\x04" + bytes(90), "is a pickle"),
        ("x.safetensors", b"\x80\x02\x8a\x0al\xfc" + bytes(90), "is a pickle"),
        ("x.safetensors", b"", "is damaged or incomplete"),
    ],
)
def test_other_formats_are_refused_by_what_they_are(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert command.main(["--model", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_kind_that_does_not_fit_is_refused(sd1, tokenizer):
    with pytest.raises(InputError, match="is not of the kind sdxl: its UNet is not of SDXL's kind"):
        read(str(sd1), Choices(tokenizer=tokenizer, kind="sdxl"))


def test_a_tokenizer_of_more_tokens_than_the_encoder_is_refused(sd1, tokenizer, tmp_path):
    vocabulary = json.loads((tokenizer / "vocab.json").read_text())
    families.write_tokenizer(tmp_path / "large", "!")
    vocabulary["<|endoftext|>"] = 49407
    (tmp_path / "large/vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(InputError, match=r"knows 700 tokens, the tokenizer in .*large has 49408; give another"):
        read(str(sd1), Choices(tokenizer=tmp_path / "large"))


def test_text_encoders_of_another_width_are_refused(sd1, shapes, tmp_path, tokenizer):
    folder = families.write_folder("sd2v", shapes["sd2v"], tmp_path / "folder")
    with pytest.raises(InputError, match=r"takes texts of width 32, the text encoders give 48"):
        read(str(sd1), Choices(tokenizer=tokenizer, text_encoder=folder))


def test_without_vocabulary_and_network_the_way_out_is_said(sd1, monkeypatch):
    def nothing(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("convert.hub.snapshot_download", nothing)
    with pytest.raises(InputError, match=r"has no tokenizer and the hub's .* cannot be reached; .*--tokenizer FOLDER"):
        read(str(sd1))


def test_flags_of_single_files_are_refused_with_folders(shapes, tmp_path):
    folder = families.write_folder("sd1", shapes["sd1"], tmp_path / "folder")
    for flag in ({"ema": True}, {"kind": "sd1"}, {"prediction": "epsilon"}):
        with pytest.raises(InputError, match="is for single files"):
            read(str(folder), Choices(**flag))
