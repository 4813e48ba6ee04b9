"""Styles of prompts on the command line: LoRAs in prompts, explanations, and what is recorded."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from mlx_sd import metadata
from mlx_sd.core.embedded import TINY
from mlx_sd.core.files import tensors
from mlx_sd.request import values_from_json

pytestmark = pytest.mark.usefixtures("tiny_once")
FAST = ("--steps", 2, "--width", 64, "--height", 64, "--seed", 5)


def pixels(path):
    return np.asarray(Image.open(path))


def write_lora(path):
    """Writes a LoRA of one layer of the embedded checkpoint's UNet."""
    (file,) = (TINY / "unet").glob("*.safetensors")
    layer = next(tensor for tensor in tensors(file) if tensor.name.endswith("attn1.to_q.weight"))
    rows, columns = layer.shape
    name = f"unet.{layer.name.removesuffix('.weight')}"
    save_file(
        {
            f"{name}.lora_A.weight": np.ones((2, columns), np.float32),
            f"{name}.lora_B.weight": np.ones((rows, 2), np.float32),
        },
        path,
    )


def explained(run, *words):
    code, out, err = run(*words, "--explain-prompt")
    assert (code, err) == (0, "")
    return out


def test_an_explanation_shows_pieces_weights_chunks_and_tokens(run, tmp_path):
    out = explained(run, "a (red:1.3) tent BREAK a moon", "--negative", "[rain]")
    assert "1.3    'red'" in out
    assert "section 2 of 2" in out
    assert "chunk 1 of 2, 3 of 75 tokens: a red tent" in out
    assert "0.9091 'rain'" in out
    assert not list(tmp_path.glob("*.png"))


def test_an_explanation_shows_steps_and_directions(run):
    out = explained(run, "[red:blue:0.5] tent AND moon :0.5", "--steps", 10)
    for line in ("direction 2 of 2, weight 0.5", "steps 1 to 5: 'red tent'", "steps 6 to 10: 'blue tent'"):
        assert line in out
    assert "share 0.7" in explained(run, '("a tent", "a moon").blend(0.7, 0.3)', "--prompt-style", "compel")


def test_a_style_is_recorded_and_made_again(run, tmp_path):
    assert run("a (red:1.4) tent", "--prompt-style", "comfy", *FAST, "--output", "a.png")[0] == 0
    assert metadata.read(tmp_path / "a.png")["prompt_style"] == "comfy"
    assert run("--from-image", "a.png", "--output", "b.png")[0] == 0
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()
    assert "Prompt style: comfy" in Image.open(tmp_path / "a.png").text["parameters"]


def test_a_picture_from_before_prompts_had_styles_is_made_of_plain_text():
    record = {"prompt": "a (red) tent", "model_hash": "0" * 12}
    assert values_from_json(record, "here")["prompt_style"] == "plain"
    assert values_from_json({**record, "prompt_style": "comfy"}, "here")["prompt_style"] == "comfy"
    assert "prompt_style" not in values_from_json({"prompt": "a (red) tent"}, "here")  # a line of --prompts


@pytest.mark.slow
def test_a_lora_in_a_prompt_is_the_lora_of_the_flag(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_SD_LORAS", str(tmp_path / "loras"))
    (tmp_path / "loras").mkdir()
    write_lora(tmp_path / "loras" / "style.safetensors")
    assert run("a tent <lora:style:0.5>", *FAST, "--output", "a.png")[0] == 0
    assert run("a tent", "--lora", "style:0.5", *FAST, "--output", "b.png")[0] == 0
    assert run("a tent", *FAST, "--output", "c.png")[0] == 0
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert (a == b).all() and (a != c).any()
    settings = metadata.read(tmp_path / "a.png")
    assert settings["prompt"] == "a tent" and settings["loras"][0]["scale"] == 0.5
    assert "<lora:style:0.5>" in Image.open(tmp_path / "a.png").text["parameters"]


def test_each_line_of_a_file_has_its_own_loras(run, tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("a tent <lora:none:0.5>\n")
    code, _, err = run("--prompts", "p.txt", *FAST)
    assert code == 2 and "none" in err


@pytest.mark.slow
def test_an_embedding_is_recorded_with_its_hash(run, tmp_path):
    from mlx_sd.load import load

    width = load("tiny").text_encoders[0].config.width
    save_file({"emb_params": np.ones((2, width), np.float32)}, tmp_path / "zorb.safetensors")
    words = ("a zorb", "--embedding", "zorb.safetensors", *FAST)
    assert run(*words, "--output", "a.png")[0] == 0
    (entry,) = metadata.read(tmp_path / "a.png")["embeddings"]
    assert (entry["path"], entry["name"]) == ("zorb.safetensors", "zorb") and len(entry["sha256"]) == 64
    assert (
        f"TI hashes: {entry['name']}: {entry['sha256'][:12]}"[:9] in Image.open(tmp_path / "a.png").text["parameters"]
    )
    assert run("--from-image", "a.png", "--output", "b.png")[0] == 0
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()
    save_file({"emb_params": np.zeros((2, width), np.float32)}, tmp_path / "zorb.safetensors")
    code, _, err = run("--from-image", "a.png", "--output", "c.png")
    assert code == 2 and "zorb" in err and "--allow-changed" in err
    assert run("--from-image", "a.png", "--output", "c.png", "--allow-changed")[0] == 0
    assert "zorb[1]" in explained(run, *words)


def test_json_says_the_style(run):
    code, out, _ = run("a tent", *FAST, "--json")
    assert code == 0 and json.loads(out)[0]["prompt_style"] == "a1111"
