"""What is no checkpoint is named in one line, with the way out, by --inspect, --verify and --model."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from convert import __main__ as command
from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError

VALID = save({"x": np.ones((500, 500), np.float32)})
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4265146304\n"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(50)

# Name of the file -> its bytes, and words of the one line.
FILES = {
    "empty.safetensors": (b"", "it is empty; download it again"),
    "short.safetensors": (VALID[:5], "it has 5 bytes; download it again"),
    "header.safetensors": (VALID[:40], "it ends in its header; download it again"),
    "half.safetensors": (VALID[: len(VALID) // 2], "it has 500 kB of 1 MB, as if its download had stopped"),
    "page.safetensors": (b"<!DOCTYPE html><html><title>404</title></html>", "is a web page"),
    "answer.safetensors": (b"Entry not found", "holds a text ('Entry not found'), not tensors"),
    "error.safetensors": (b'{"error":"Repository not found"}', "holds a text ("),
    "pointer.safetensors": (LFS, "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
    "model.gguf": (b"GGUF\x03" + bytes(99), "is a GGUF file, which is not supported; get the safetensors version"),
    "quants.safetensors": (b"GGUF\x03" + bytes(99), "is a GGUF file"),
    "old.ckpt": (pickle.dumps({"a": 1}, 2), "is a pickle, which can run code when opened"),
    "old.safetensors": (pickle.dumps({"a": 1}, 4), "is a pickle, which can run code when opened"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0" + bytes(50), "looks like an ONNX model"),
    "picture.safetensors": (PICTURE, "is a picture, not a safetensors file"),
    "picture.png": (PICTURE, "is a picture, not a safetensors file"),
    "packed.safetensors": (b"\x1f\x8b\x08" + bytes(50), "is a compressed archive; unpack it"),
    "weights.safetensors": (b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 (Keras) file"),
    "noise.safetensors": (bytes(range(128, 256)), "is damaged or incomplete"),
}

# A tensor's name -> how --inspect and --model name a file that holds it.
KINDS = {
    "double_blocks.0.img_attn.qkv.weight": "Flux",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "Stable Diffusion 3",
    "quant_conv.weight": "a VAE",
    "emb_params": "a textual inversion embedding",
    "image_proj.latents": "an IP-Adapter",
    "control_model.input_hint_block.0.weight": "a ControlNet",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet",
    "text_model.encoder.layers.0.layer_norm1.weight": "a text encoder",
}


def _folder(path, **files):
    path.mkdir()
    for name, text in files.items():
        (path / name.replace("_", ".", 1)).write_text(text)
    return path


def _diffusers_without_unet(path):
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "PNDMScheduler"}
    parts |= {"text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}
    for name in set(parts) - {"unet"}:
        (path / name).mkdir(parents=True)
    index = {name: ["diffusers", kind] for name, kind in parts.items()}
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"} | index))


def _lora(path):
    save_file({"x": np.ones(1, np.float32)}, _folder(path) / "pytorch_lora_weights.safetensors")


# Folder -> how it is made, and words of the lines of --model and --verify.
FOLDERS = {
    "nothing": (lambda p: p.mkdir(), "is an empty folder", "is an empty folder"),
    "images": (lambda p: _folder(p, a_png="", b_jpg=""), "is a folder of pictures (a.png, b.jpg)", "is a folder of"),
    "Unet.mlpackage": (lambda p: _folder(p, Manifest_json="{}"), "is a Core ML package", "is a Core ML package"),
    "packages": (lambda p: _folder(p, Unet_mlpackage=""), "holds Core ML packages", "holds Core ML packages"),
    "vae": (lambda p: _folder(p, config_json='{"_class_name": "AutoencoderKL"}'), "is a VAE alone", "is a VAE alone"),
    "unetless": (
        _diffusers_without_unet,
        "unetless/unet is missing, though model_index.json lists it",
        "convert it first",
    ),
    "lora": (_lora, "is the folder of a LoRA; give it by --lora", "is the folder of a LoRA"),
    "newer": (
        lambda p: _folder(p, model_json='{"format": "mlx-sd", "version": 9}'),
        "is converted already",
        "is of version 9, this mlx-sd reads 1 to 3; update mlx-sd, or convert the checkpoint again",
    ),
    "foreign": (lambda p: _folder(p, model_json="{}"), "is converted already", "is not of the format mlx-sd"),
    "around": (
        lambda p: _folder(_folder(p) / "inner", model_json="{}"),
        "neither model_index.json (diffusers) nor model.json (converted); did you mean around/inner?",
        "did you mean around/inner?",
    ),
}


@pytest.fixture
def line(tmp_path, monkeypatch, capsys):
    """line(*arguments) is the one line of a command that refuses its input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments):
        before = sorted(tmp_path.rglob("*"))
        code = command.main([*arguments])
        out, err = capsys.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return run


@pytest.mark.parametrize("name", FILES)
def test_a_foreign_file_is_named_with_the_way_out(name, line, tmp_path):
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    assert words in line("--inspect", name)
    assert words in line("--model", name, "--out", "out")
    assert f"{name} is a file; --verify checks a folder" in line("--verify", name)


def test_a_checkpoint_of_torch_is_known_by_its_content(line, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    assert "is a pickle" in line("--inspect", "x.safetensors")


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_something_else_is_described_and_refused_as_a_model(name, line, tmp_path, capsys):
    save_file({name: np.ones((4, 4), np.float32)}, tmp_path / "x.safetensors")
    assert KINDS[name] in line("--model", "x.safetensors", "--out", "out")
    assert command.main(["--inspect", "x.safetensors"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"x.safetensors: {KINDS[name]}") and KINDS[name] in second


@pytest.mark.parametrize("name", FOLDERS)
def test_a_foreign_folder_is_named_with_the_way_out(name, line, tmp_path):
    make, of_model, of_verify = FOLDERS[name]
    make(tmp_path / name)
    assert of_model in line("--model", name, "--out", "out")
    assert of_verify in line("--verify", name)
    if name not in ("around", "lora"):
        assert "--inspect" in line("--inspect", name) or name in ("newer", "foreign")


@pytest.mark.parametrize("flag", ["--inspect", "--verify", "--model"])
def test_what_does_not_exist_is_named(flag, line):
    arguments = ("--out", "out") if flag == "--model" else ()
    assert "none.safetensors does not exist" in line(flag, "none.safetensors", *arguments)


def test_a_lora_as_the_model_is_sent_to_its_option(line, tmp_path):
    names = [f"lora_unet_mid_block_attentions_0_proj_in.lora_{side}.weight" for side in ("down", "up")]
    save_file({name: np.ones((4, 4), np.float32) for name in names}, tmp_path / "x.safetensors")
    assert "is a LoRA; give it by --lora beside the checkpoint" in line("--model", "x.safetensors", "--out", "out")


def test_loading_says_the_same(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(LFS)
    with pytest.raises(InputError, match="is a Git LFS pointer"):
        StableDiffusion.load(tmp_path / "x.safetensors")
