"""`python -m bench bits`: what it compares, at which bytes, and that it leaves the model as it was."""

import json

import numpy as np
import pytest

from bench.quality import bits
from bench.results import VERSION
from coreml.compression import networks
from tests.support.exports import SMALL, model  # noqa: F401 - a fixture


@pytest.fixture
def few(monkeypatch):
    """Two prompts on either side, and three steps."""
    for module in (bits, bits.bits):
        monkeypatch.setattr(module, "PROMPTS", module.PROMPTS[:2])
        monkeypatch.setattr(module, "STEPS", 3)


def test_mixed_and_uniform_bits_are_compared_at_equal_bytes(few, model, tmp_path, capsys):  # noqa: F811
    path = tmp_path / "bits.json"
    flags = ["--inputs", "8", "--pictures", "1", "--json", str(path)]
    assert bits.main(["--model", model(SMALL).model.name, *flags]) == 0
    content = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == content
    assert content["version"] == VERSION and content["inputs"] == 8
    for number in bits.SIZES:
        uniform, mixed = (s for s in content["settings"] if s["bits"] == number)
        assert (uniform["form"], mixed["form"]) == ("uniform", "mixed")
        assert 0.99 * uniform["bytes"] <= mixed["bytes"] <= uniform["bytes"]
        assert len(uniform["picture_psnr"]) == len(mixed["picture_psnr"]) == 1
        assert sum(mixed["layers"].values()) == len(networks.weights_of(model(SMALL).unet))
    errors = [s["noise_pred_psnr"] for s in content["settings"]]
    assert errors[0] < errors[2] < errors[4]


def test_psnr_is_over_all_inputs_with_the_largest_number_as_peak():
    expected = [np.array([[2.0, 0.0]]), np.array([[-4.0, 0.0]])]
    assert bits.psnr([a + 0.4 for a in expected], expected) == pytest.approx(20)


def test_the_prompts_are_not_those_of_the_search():
    assert not set(bits.PROMPTS) & set(bits.bits.PROMPTS)


def test_a_search_on_random_weights_says_its_seconds_and_bytes(monkeypatch):
    tiny = bits.models.UNETS["sdxl"] | {
        "block_out_channels": [32, 64, 64],
        "attention_head_dim": [2, 4, 4],
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
        "transformer_layers_per_block": [1, 1, 1],
    }
    monkeypatch.setitem(bits.models.UNETS, "small", tiny)
    monkeypatch.setattr(bits.bits, "INPUTS", 4)
    content = bits.search_of("small", 8)
    assert content["seconds"].keys() == {"measure", "palettes", "allocate 3", "allocate 4", "allocate 6"}
    for size in content["sizes"].values():
        assert 0.99 * size["limit"] <= size["bytes"] <= size["limit"]
