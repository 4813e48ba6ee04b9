"""All forms are measured in turns, and assets are compared with MLX in Apple's runtime."""

import json

import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")


from bench import models
from bench.memory import exports
from convert.__main__ import main as convert
from coreml.checks import Check
from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import tensors


@pytest.mark.slow
def test_all_forms_are_measured_and_the_assets_are_right(tmp_path):
    file = tmp_path / "exports.json"
    assert exports.main(["--repeat", "1", "--check", "64", "--json", str(file)]) == 0
    values = json.loads(file.read_text())
    assert values["runs"].keys() == set(exports.FORMS)
    for runs in values["runs"].values():
        assert runs[0]["seconds"] > 0 and runs[0]["peak_bytes"] > 10**8 and runs[0]["bytes"] > 10**7
    assert values["coreai_over"].keys() == {"coreml", "coreml:chunks"}
    assert values["settings"]["attention"] == {"coreml": "split-einsum", "coreai": "fused"}
    assert 0 < values["check"]["largest"] <= 1e-5


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_shapes_with_random_weights_are_a_checkpoint_of_the_dtype(small_shapes, name, tmp_path):
    models.write(name, tmp_path / name, "float16")
    assert convert(["--model", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 0
    sd = StableDiffusion.load(tmp_path / "out", "float32")
    assert len(sd.model.tokenizers) == len(models.TEXTS[name])
    weights = [t for file in (tmp_path / "out").glob("*.safetensors") for t in tensors(file)]
    assert weights and {t.dtype for t in weights} == {"F16"}


@pytest.mark.slow
def test_only_the_assets_that_are_named_are_run(small_shapes, tmp_path, monkeypatch):
    ran = []

    def run(content, paths, *_):
        """Notes what would run, and finds one small error."""
        ran.extend(paths)
        return [Check("Unet", "main", "noise_pred", "float32", 1e-6, 120.0)]

    monkeypatch.setattr(exports.asset_checks, "run", run)
    models.write("sd15", tmp_path / "sd15", "float16")
    checked = exports.check(str(tmp_path / "sd15"), 64, ["unet"])
    assert ran == ["Unet"]
    assert checked["largest"] == 1e-6 and checked["errors"] == {"Unet.main.noise_pred": 1e-6}
    with pytest.raises(InputError, match="there are TextEncoder, Unet, VAEDecoder, VAEEncoder"):
        exports.check(str(tmp_path / "sd15"), 64, ["unit"])


@pytest.mark.parametrize("form", ["onnx", "coreml:whole"])
def test_a_form_that_does_not_exist_is_refused(form, capfd):
    assert exports.main(["--format", form]) == 2
    assert "coreml, coreai, with :full" in capfd.readouterr().err


def test_only_without_a_check_is_refused(capfd):
    assert exports.main(["--only", "unet"]) == 2
    assert "--only is of --check" in capfd.readouterr().err
