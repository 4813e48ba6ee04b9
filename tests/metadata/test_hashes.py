"""The hashes in A1111's text are those that A1111 computes from the files."""

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from convert import __main__ as convert
from convert.adapters import adapter_file
from mlx_sd.checkpoint.model_folder import checkpoint_hash
from tests.support import adapters, singles


def _after_header(file):
    content = file.read_bytes()
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()[:12]


def _style(shapes, path, metadata=None):
    factors = adapters.every_layer(shapes, pick=lambda layer, shape: layer.endswith("to_q"))
    return adapters.save(path, adapters.kohya(factors), metadata)


def test_the_hash_of_an_adapter_is_that_of_its_numbers(shapes, tmp_path):
    """... so that a note in the header does not change it; a trainer's own hash wins."""
    plain = _style(shapes["sd1"], tmp_path / "a.safetensors")
    noted = _style(shapes["sd1"], tmp_path / "b.safetensors", {"ss_training_comment": "a note"})
    assert adapter_file.read(plain).autov3 == adapter_file.read(noted).autov3 == _after_header(plain)
    assert adapter_file.read(plain).sha256 != adapter_file.read(noted).sha256
    trained = _style(shapes["sd1"], tmp_path / "c.safetensors", {"sshs_model_hash": "0123456789abcdef"})
    assert adapter_file.read(trained).autov3 == "0123456789ab"
    save_file({name: array * 2 for name, array in load_file(plain).items()}, plain)
    assert adapter_file.read(plain).autov3 != adapter_file.read(noted).autov3


def test_only_a_single_file_has_a_hash_of_a_checkpoint():
    for files, expected in (({"a.safetensors": "ab"}, "ab"), ({"unet/a.safetensors": "ab"}, None), ({}, None)):
        assert checkpoint_hash({"source": {"sha256": files}}) == expected
    assert checkpoint_hash({"source": {"sha256": {"a.safetensors": "ab", "vae.safetensors": "cd"}}}) is None
    assert checkpoint_hash({"source": {}}) is None


@pytest.mark.slow
def test_a_pictures_text_has_the_hashes_of_its_files(run, shapes, tokenizer, tmp_path):
    configs, weights = singles.parts("sd1", shapes)
    file = tmp_path / "dreamy.v2.safetensors"
    save_file(singles.arrays("sd1", configs, weights), file)
    style = _style(shapes["sd1"], tmp_path / "fine style.safetensors")
    model = tmp_path / "models" / "converted"
    assert (
        convert.main(["--model", str(file), "--tokenizer", str(tokenizer), "--out", str(model), "--kind", "sd1"]) == 0
    )
    flags = ("--model", model, "--lora", f"{style}:0.5", "--steps", 1, "--width", 32, "--height", 32, "--seed", 1)
    assert run("a tent", *flags, "--output", "a.png")[0] == 0
    with Image.open("a.png") as image:
        text, settings = image.text["parameters"], json.loads(image.text["mlx-sd"])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"Model hash: {digest[:10]}, Model: converted" in text
    assert f'Lora hashes: "fine style: {_after_header(style)}"' in text
    assert "a tent <lora:fine style:0.5>" in text and settings["checkpoint_hash"] == digest
    assert run("--from-image", "a.png", "--output", "b.png")[::2] == (0, "")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert run("--from-image", "a.png", "--model", "tiny", "--output", "c.png")[0] in (0, 2)


def test_a_folders_model_has_our_hash(run):
    assert run("a tent", "--steps", 1, "--width", 32, "--height", 32, "--output", "a.png")[0] == 0
    with Image.open("a.png") as image:
        settings = json.loads(image.text["mlx-sd"])
        assert f"Model hash: {settings['model_hash']}, Model: tiny" in image.text["parameters"]
    assert "checkpoint_hash" not in settings
