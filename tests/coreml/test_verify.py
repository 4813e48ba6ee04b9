"""`python -m coreml verify` accepts what is right, says what it cannot show, and notices what is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from coreml import verify
from coreml.__main__ import main
from coreml.mil import package
from mlx_sd.core.errors import InputError


def test_it_reports_each_output_and_what_it_cannot_show(exported, family, capfd):
    path = exported("sd1 float16") / "UnetChunk2.mlpackage"
    assert main(["verify", str(path), "--model", family("sd1").model.name]) == 0
    out = capfd.readouterr().out
    assert "rounded to float16" in out and "PSNR" in out and "It cannot show" in out
    assert main(["verify", str(path), "--model", family("sd1").model.name, "--json"]) == 0
    checks = json.loads(capfd.readouterr().out)
    assert {check["how"] for check in checks} == {"float32", "rounded to float16"}
    assert {"package", "function", "output", "how", "error", "psnr"} == checks[0].keys()


def test_another_models_numbers_and_an_incomplete_file_are_noticed(exported, family, tmp_path, capfd):
    source = exported("sd1 float16") / "UnetChunk2.mlpackage"
    path = Path(shutil.copytree(source, tmp_path / "UnetChunk2.mlpackage"))
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    model = family("sd1").model.name
    numbers = weights.read_bytes()
    stored = np.array(family("sd1").unet.up.stages[-1][0].conv1.weight, np.float16).transpose(0, 3, 1, 2).tobytes()
    assert numbers.count(stored) == 1
    weights.write_bytes(numbers.replace(stored, bytes(len(stored))))
    assert main(["verify", str(path), "--model", model]) == 1
    assert "below 35" in capfd.readouterr().err
    weights.write_bytes(numbers[: len(numbers) // 2])
    assert main(["verify", str(path), "--model", model]) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_a_folder_that_is_no_export_is_refused(tmp_path, capfd):
    assert main(["verify", str(tmp_path)]) == 2
    assert "info.json is missing" in capfd.readouterr().err


def test_another_kind_of_model_is_refused(exported, family, tmp_path, capfd):
    path = Path(shutil.copytree(exported("sd1 float16") / "TextEncoder.mlpackage", tmp_path / "TextEncoder2.mlpackage"))
    text_encoder_2 = {"main": {"role": "text_encoder_2", "size": None}}  # of SDXL
    package.write_metadata(path, {"functions": text_encoder_2, "branch": 0, "piece": [1, 1], "compress": None})
    assert main(["verify", str(path), "--model", family("sd1").model.name]) == 2
    assert "does not have" in capfd.readouterr().err


@pytest.mark.slow
def test_one_piece_of_several_is_refused(halves):
    with pytest.raises(InputError, match="piece"):
        list(verify.chains(halves / "UnetChunk1.mlpackage"))
