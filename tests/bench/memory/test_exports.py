"""Both formats are measured in turns, and assets are compared with MLX in Apple's runtime."""

import json

import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from bench.memory import exports


@pytest.mark.slow
def test_both_formats_are_measured_and_the_assets_are_right(tmp_path):
    file = tmp_path / "exports.json"
    assert exports.main(["--repeat", "1", "--check", "64", "--json", str(file)]) == 0
    values = json.loads(file.read_text())
    assert values["runs"].keys() == {"coreml", "coreai"}
    for runs in values["runs"].values():
        assert runs[0]["seconds"] > 0 and runs[0]["peak_bytes"] > 10**8 and runs[0]["bytes"] > 10**7
    assert values["coreai_over_coreml"] > 0
    assert 0 < values["check"]["largest"] <= 1e-5


def test_a_format_that_does_not_exist_is_refused(capfd):
    assert exports.main(["--format", "onnx"]) == 2
    assert "coreml, coreai" in capfd.readouterr().err
