"""What is no Stable Diffusion checkpoint, or not a whole one, is said to be what it is, in one line."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert import __main__ as command
from convert.sources.checkpoint import SourceOptions
from convert.sources.open_checkpoint import open_checkpoint
from mlx_sd.core.errors import InputError
from tests.support import families


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
    "T2I-Adapter": (_only("body.0.block1.weight"), "is a T2I-Adapter; give it by --adapter"),
    "IP-Adapter": (_only("image_proj.latents"), "is an IP-Adapter; give it by --ip-adapter"),
    "tiny autoencoder": (_only("1.weight", "3.conv.0.weight"), "is a tiny autoencoder (TAESD); give it by --vae"),
    "embedding": (_only("emb_params"), "is a textual inversion"),
    "diffusion transformer": (_only("blocks.0.self_attn.q.weight"), "looks like a diffusion transformer"),
    "VQ": (
        lambda a: a | _only("first_stage_model.quantize.embedding.weight")(a),
        "encoder.conv_out.weight is",
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
    "6 channels": (
        lambda a: a | {UNET + "input_blocks.0.0.weight": np.zeros((32, 6, 3, 3), np.float32)},
        "a UNet of 6 input channels",
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
    assert code == 2 and message in err and err.count("\n") == 1, err
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
        ("x.txt", b"a text of some words", "is a file; give a diffusers folder"),
    ],
)
def test_other_formats_are_refused_by_what_they_are(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert command.main(["--model", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_kind_that_does_not_fit_is_refused(sd1, tokenizer):
    with pytest.raises(InputError, match="is not of the kind sdxl: its UNet is not of SDXL's kind"):
        open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer, kind="sdxl"))


def test_a_tokenizer_of_more_tokens_than_the_encoder_is_refused(sd1, tokenizer, tmp_path):
    vocabulary = json.loads((tokenizer / "vocab.json").read_text())
    families.write_tokenizer(tmp_path / "large", "!")
    vocabulary["<|endoftext|>"] = 49407
    (tmp_path / "large/vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(InputError, match=r"knows 700 tokens, the tokenizer in .*large has 49408; give another"):
        open_checkpoint(str(sd1), SourceOptions(tokenizer=tmp_path / "large"))


def test_text_encoders_of_another_width_are_refused(sd1, shapes, tmp_path, tokenizer):
    folder = families.write_folder("sd2v", shapes["sd2v"], tmp_path / "folder")
    with pytest.raises(InputError, match=r"takes texts of width 32, the text encoders give 48"):
        open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer, text_encoder=folder))


def test_without_vocabulary_and_network_the_way_out_is_said(sd1, monkeypatch):
    def nothing(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("convert.files.hub.snapshot_download", nothing)
    with pytest.raises(InputError, match=r"has no tokenizer and the hub's .* cannot be reached .*--tokenizer FOLDER"):
        open_checkpoint(str(sd1))


@pytest.mark.parametrize("name", ["vae", "text_encoder", "tokenizer"])
def test_a_part_that_is_not_there_is_named(name, sd1, tokenizer, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        open_checkpoint(str(sd1), SourceOptions(**{"tokenizer": tokenizer, name: tmp_path / "nowhere"}))


def test_a_vae_of_another_kind_is_refused(sd1, tokenizer, shapes, tmp_path):
    """One of 16 channels, as later families have."""
    weights = families.weights("vae", shapes["sd1"]["vae"])
    weights["decoder.conv_in.weight"] = np.zeros((32, 16, 3, 3), np.float32)
    save_file(weights, tmp_path / "vae.safetensors")
    with pytest.raises(InputError, match="a VAE of 16 channels for a UNet of 4"):
        open_checkpoint(str(sd1), SourceOptions(tokenizer=tokenizer, vae=tmp_path / "vae.safetensors"))


def test_flags_of_single_files_are_refused_with_folders(shapes, tmp_path):
    folder = families.write_folder("sd1", shapes["sd1"], tmp_path / "folder")
    for flag in ({"ema": True}, {"kind": "sd1"}, {"prediction": "epsilon"}):
        with pytest.raises(InputError, match="is for single files"):
            open_checkpoint(str(folder), SourceOptions(**flag))
