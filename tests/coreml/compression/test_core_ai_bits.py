"""An asset of Core AI with a file of mixed bits computes in Apple's runtime what the dense weights compute in MLX."""

import json

import numpy as np
import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from coreml import asset_checks, info
from coreml.__main__ import main
from coreml.compression import networks, schemes
from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model import DTYPES
from tests.support.exports import SMALL, leave_out

MIXED = (1, 3, 6, 16, 2, 4, 8)  # of the layers in turn: each there is, in any order
FORMS = {"fused float32": 1e-5, "original float32": 1e-5, "split-einsum float32": 1e-5, "split-einsum float16": 5e-3}


@pytest.fixture(scope="module")
def bits_file(model, tmp_path_factory):
    """A search's file, so quick that it does not choose well, of every number of bits in turn."""
    path = tmp_path_factory.mktemp("bits") / "bits.json"
    words = ["--bits", "4", "--steps", "2", "--inputs", "2", "--prompts", str(path.with_name("prompts.txt"))]
    path.with_name("prompts.txt").write_text("a red tent")
    assert main(["bits", "--model", model(SMALL).model.name, "--out", str(path), *words]) == 0
    content = json.loads(path.read_text())
    for i, layer in enumerate(content["layers"].values()):
        layer["bits"] = MIXED[i % len(MIXED)]
    path.write_text(json.dumps(content))
    return path


def dense(model, bits_file, dtype):
    """The network with the numbers that the file's palettes stand for."""
    sd = StableDiffusion.load(model(SMALL).model.folder, dtype="float32")
    networks.compress(sd.unet, schemes.compressor(str(bits_file), "unet"), DTYPES[dtype])
    weights = {name: np.array(array) for name, array in networks.weights_of(sd.unet).items()}
    for name, layer in json.loads(bits_file.read_text())["layers"].items():
        count = len(np.unique(weights[name]))
        assert count <= 1 << layer["bits"] if layer["bits"] < 16 else count > 256
    return sd


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_mixed_bits_compute_what_the_dense_weights_compute(form, bits_file, model, tmp_path, monkeypatch):
    limit, (attention, dtype) = FORMS[form], form.split()
    leave_out(monkeypatch, ("unet",))
    out, name = tmp_path / "out", model(SMALL).model.name
    monkeypatch.setattr("coreml.export._write_beside_assets", _metadata_alone)
    words = ["--format", "coreai", "--model", name, "--attention", attention, "--dtype", dtype, "--out", str(out)]
    assert main([*words, "--compress", str(bits_file)]) == 0
    content, paths = asset_checks.content_of(out)
    layers = json.loads(bits_file.read_text())["layers"]
    assert info.read(out)["compression"]["bits"] == {name: layer["bits"] for name, layer in layers.items()}
    results = list(asset_checks._checks(content, paths, dense(model, bits_file, dtype)))
    assert {check.function for check in results} == {"main", "full", "shallow"}
    assert max(check.error for check in results) <= limit
    plain = list(asset_checks._checks(content, paths, model(SMALL)))
    assert min(check.error for check in plain if check.function == "main") > 10 * limit  # 1 bit is far from dense


def _metadata_alone(home, _name, content, *_):
    from coreml.coreai.asset import write_metadata

    for asset in content["packages"]:
        write_metadata(home / f"{asset}.aimodel", content)


@pytest.mark.slow
def test_verify_needs_no_file_of_bits_any_more(bits_file, model, tmp_path, monkeypatch):
    """Nor does the twin of a large asset, which is exported again: info.json has the bits."""
    leave_out(monkeypatch, ("unet",))
    monkeypatch.setattr("coreml.export._write_beside_assets", _metadata_alone)
    copy = tmp_path / "bits.json"
    copy.write_bytes(bits_file.read_bytes())
    words = ["--format", "coreai", "--model", model(SMALL).model.name, "--width", "128", "--height", "128"]
    assert main([*words, "--compress", str(copy), "--out", str(tmp_path / "out")]) == 0
    copy.unlink()
    content, paths = asset_checks.content_of(tmp_path / "out")
    monkeypatch.setattr(asset_checks, "PATIENCE", asset_checks.predicted(content, paths) / 2)
    lines = []
    assert list(asset_checks.run(content, paths, model(SMALL).model.name, False, lines.append))
    assert "twins of" in lines[1]
