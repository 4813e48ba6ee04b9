"""What the owner of a machine measures and sends: whole, of its form, without names, and shown in a table."""

import copy
import getpass
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import results
from bench.report import mine, report
from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.tuning import record
from mlx_sd.tuning.choices import CHOICES
from tests.support.received import VALUES
from tests.support.tuned import finding, write_entry


@pytest.mark.slow
def test_the_command_writes_a_file_of_its_form_without_names(tmp_path, capsys):
    file = tmp_path / "mac.json"
    assert report.main(["--mine", str(file), "--model", "tiny"]) == 0
    assert report.main(["--valid", str(file)]) == 0
    text = file.read_text()
    assert mine.read(file)["models"][0]["model"] == "tiny"
    for name in (socket.gethostname(), str(tmp_path), f'"{getpass.getuser()}"'):
        assert name not in text
    assert report.main(["--mine", str(file)]) == 2
    assert "exists; give another name to --mine" in capsys.readouterr().err
    assert file.read_text() == text


def test_the_form_is_that_of_the_example():
    mine.check(VALUES, "x")


def test_what_was_tuned_here_is_sent_along(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLX_SD_CACHE", str(tmp_path))
    assert mine.tuning() == []
    write_entry(StableDiffusion.load("tiny"), (64, 64), finding(CHOICES[1], {"16": 0.8}, {"16": True}))
    (entry,) = mine.tuning()
    assert entry["exact"] == "conv_in_channels=16" and entry["choices"][0]["values"][1]["ratio"] == 0.8
    mine.check(VALUES | {"tuning": [entry]}, "x")
    record.path().write_text("{")
    assert mine.tuning() == [] and "mlx-sd tune --forget" in capsys.readouterr().err


def places(value, path=()):
    """Yields the path of every value in nested dictionaries and lists, the containers too."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


@given(st.sampled_from([path for path in places(VALUES) if path]), st.sampled_from([None, {"a": []}, "a\nb", -1, True]))
def test_a_wrong_value_anywhere_is_named(path, wrong):
    values = copy.deepcopy(VALUES)
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    if wrong is True and inner[path[-1]] is True:
        return
    inner[path[-1]] = wrong
    with pytest.raises(InputError) as error:
        mine.check(values, "mac.json")
    assert str(error.value).startswith("mac.json: ") and str(path[0]) in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 7}', '{"version": 1, "kind": "mine"}'])
def test_another_file_is_refused_with_one_line(text, tmp_path, capsys):
    file = tmp_path / "mac.json"
    file.write_text(text)
    assert report.main(["--valid", str(file)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_received_files_are_rows_of_a_table(tmp_path):
    assert mine.section(tmp_path) == "None yet."
    (tmp_path / mine.RECEIVED).mkdir()
    results.write(tmp_path / mine.RECEIVED / "m9.json", VALUES)
    row = mine.section(tmp_path).splitlines()[-1]
    assert row == "| Apple M9 | 16 GiB | 0.32 | SD 1.5 | 0.500 s | 2.25 times | 3.50 times | 1.25 |"


def test_all_files_received_are_of_their_form():
    for file in (results.FOLDER / mine.RECEIVED).glob("*.json"):
        mine.read(file)


def test_models_are_those_that_fit(monkeypatch):
    weights = {"sd15": 10, "sd21": 10, "sdxl": 100}
    monkeypatch.setattr(mine, "_weights", weights.__getitem__)
    monkeypatch.setattr(mine.mx, "default_device", lambda: "gpu")
    assert mine.models_for(20) == ["tiny", "sd15", "sd21"]
    assert mine.models_for(1000) == ["tiny", "sd15", "sd21", "sdxl"]


def test_the_schema_is_json():
    assert json.loads(mine.SCHEMA.read_text())["additionalProperties"] is False
