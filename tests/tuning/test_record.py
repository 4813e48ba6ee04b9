"""The file of what was measured: its key, its strict reading, and what becomes of a damaged one."""

import copy
import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.networks.tuning import Tuning
from mlx_sd.tuning import apply, record
from mlx_sd.tuning.choices import named
from tests.support.tuned import finding, write_entry

CHANNELS = named(["conv_in_channels"])[0]
WINNER = finding(CHANNELS, {"16": 0.8}, {"16": True})


@pytest.fixture(scope="module")
def tiny():
    return StableDiffusion.load("tiny", dtype="float32")


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The record's path, in a cache of its own."""
    monkeypatch.setenv("MLX_SD_CACHE", str(tmp_path))
    return tmp_path / record.NAME


def measured(sd):
    """Returns what a model has measured, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tunings = apply.measured(sd.model)
    return tunings, [str(warning.message) for warning in caught]


def test_what_is_written_is_read(file, tiny):
    write_entry(tiny, (64, 64), WINNER)
    write_entry(tiny, (64, 72), WINNER)
    write_entry(tiny, (64, 64), WINNER)
    entries = record.read(file)
    assert [entry.size for entry in entries] == [(64, 72), (64, 64)]
    assert all(entry.findings == [WINNER] for entry in entries)
    assert record.of_this_machine(entries) == entries
    assert [path.name for path in file.parent.iterdir()] == [record.NAME]


def test_loading_uses_what_was_measured_here(file, tiny):
    assert measured(tiny) == ({}, []) and tiny.model.tunings == {}
    write_entry(tiny, (64, 64), WINNER)
    tunings, lines = measured(tiny)
    assert lines == [] and tunings == StableDiffusion.load("tiny", dtype="float32").model.tunings
    assert tunings[64, 64].exact == Tuning(conv_in_channels=16)


@pytest.mark.parametrize(
    "name", ["chip", "system", "mlx", "mlx_sd", "blas", "winograd", "family", "unet", "dtype", "quantize"]
)
def test_what_was_measured_elsewhere_does_not_count(file, tiny, name):
    write_entry(tiny, (64, 64), WINNER)
    content = json.loads(file.read_text())
    content["entries"][0]["key"][name] = "another"
    file.write_text(json.dumps(content))
    assert measured(tiny) == ({}, [])


def places(value, path=()):
    """Yields the path of every value in nested dictionaries and lists."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


@given(st.data())
def test_any_value_of_a_wrong_kind_is_one_line_with_the_way_out(file, tiny, data):
    record.remove(file)
    write_entry(tiny, (64, 64), WINNER)
    content = json.loads(file.read_text())
    path = data.draw(st.sampled_from(list(places(content))))
    wrong = data.draw(st.sampled_from([{"a": []}, [None], "x\ny", -1.5, True]))
    inner = changed = copy.deepcopy(content)
    for key in path[:-1]:
        inner = inner[key]
    kept = type(inner[path[-1]]) is type(wrong) or (inner[path[-1]] is None and isinstance(wrong, bool | float))
    inner[path[-1]] = wrong
    file.write_text(json.dumps(changed))
    if kept or path[-1] in ("first", "difference"):
        return
    with pytest.raises(InputError) as error:
        record.read(file)
    assert "\n" not in str(error.value) and str(error.value).endswith("; mlx-sd tune --forget removes it")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2, "entries": []}', '{"version": 1, "entries": 3}', "\0"]
)
def test_a_damaged_file_is_one_warning_and_pictures_are_made_as_without_it(file, tiny, text):
    file.write_text(text)
    tunings, lines = measured(tiny)
    assert tunings == {} and len(lines) == 1
    assert "cannot be used" in lines[0] and "mlx-sd tune --forget" in lines[0] and "\n" not in lines[0]


def test_it_names_no_model_and_no_folder(file, tiny):
    write_entry(tiny, (64, 64), WINNER)
    text = file.read_text()
    assert str(file.parent) not in text and '"tiny"' not in text
