"""`python -m bench bits`: what it compares, at which bytes, and that it leaves the model as it was."""

import json

import numpy as np
import pytest
from PIL import Image

from bench.quality import bits
from bench.results import VERSION
from convert.__main__ import main as convert
from coreml.compression import networks
from tests.support.exports import SMALL, model  # noqa: F401 - a fixture


@pytest.fixture
def few(monkeypatch):
    """Two prompts on either side, and three steps."""
    for module in (bits, bits.bits):
        monkeypatch.setattr(module, "PROMPTS", module.PROMPTS[:2])
        monkeypatch.setattr(module, "STEPS", 3)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_search_on_random_weights_says_its_seconds_and_bytes(small_shapes, few, tmp_path, monkeypatch):
    monkeypatch.setattr(bits.bits, "INPUTS", 4)
    folder, file = tmp_path / "sdxl", tmp_path / "bits.json"
    bits.models.write("sdxl", tmp_path / "checkpoint", "float16")
    assert convert(["--model", str(tmp_path / "checkpoint"), "--out", str(folder)]) == 0
    content = bits.search_of(str(folder), 8, str(file))
    allocations = {f"allocate {uniform}" for uniform in bits.SIZES}
    assert content["seconds"].keys() == {"load", "generations", "measure", "palettes"} | allocations
    assert content["evaluations"] == {"generations": 6, "measured": 4, "rows": 2}
    for size in content["sizes"].values():
        assert 0.99 * size["limit"] <= size["bytes"] <= size["limit"]
    pytest.importorskip("coreai", reason="the extra coreai is not installed")
    written = bits.written(str(folder), str(file))
    assert written["bytes"] > content["sizes"]["4"]["bytes"] and written["peak_bytes"] > written["bytes"]


def test_a_sheet_of_pictures_has_a_column_for_each_form(tmp_path):
    columns = [[np.full((2, 3, 3), 10.0 * form + row) for row in range(2)] for form in range(3)]
    bits._save(columns, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (9, 4)
        assert [sheet.getpixel((x, 3))[0] for x in (0, 3, 6)] == [1, 11, 21]
