"""`python -m bench adapters`: bad input is one line, and all of it comes through and compares."""

import json

import pytest

from bench import results
from bench.adapters.adapters import main
from bench.adapters.recipes import RECIPES
from mlx_sd import StableDiffusion

SHARE = {"true": 5, "count": 10, "percent": 50.0, "low": 23.7, "high": 76.3}


@pytest.fixture
def edition(tmp_path):
    """edition("a", low=1, high=2) is a file of results whose figure has this interval."""

    def write(name, steps=10, adapter="lilac", figure="things", checkpoint="x", **changes):
        entry = {"adapter": adapter, "steps": steps, "captions": 4, "sampling": 2}
        entry["figures"] = {figure: {"with": SHARE | changes, "without": SHARE}}
        results.write(tmp_path / f"{name}.json", {"measurement": "adapters", "hash": checkpoint, "adapters": [entry]})
        return str(tmp_path / f"{name}.json")

    return write


def fails(capsys, *arguments):
    """The one line that a command ends with, whose exit code is 2."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2 and err.count("\n") == 1 and not out
    return err


def test_bad_input_is_one_line(tmp_path, capsys):
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "photo.png").touch()
    assert "evening" in fails(capsys, "--out", tmp_path / "out", "--only", "morning")
    assert "'photo.png'" in fails(capsys, "--out", strange)
    assert "is a file" in fails(capsys, "--out", strange / "photo.png")
    assert "numbered from 0 to 9" in fails(capsys, "--out", tmp_path / "out", "--seed", 10)
    assert "another world" in fails(capsys, "--out", tmp_path / "out", "--model", "tiny-classes")
    assert "either --out" in fails(capsys)
    assert "either --out" in fails(capsys, "--out", tmp_path / "out", "--compare", "a.json", "b.json")
    assert not (tmp_path / "out").exists() and [path.name for path in strange.iterdir()] == ["photo.png"]


def test_editions_with_intervals_that_overlap_compare_as_such(edition, tmp_path, capsys):
    first = edition("a", low=20.0, high=60.0, percent=40.0)
    for name, low, high, percent, overlap, within in (
        ("b", 50.0, 90.0, 70.0, True, False),
        ("c", 25.0, 65.0, 45.0, True, True),
        ("d", 61.0, 99.0, 80.0, False, False),
    ):
        second = edition(name, low=low, high=high, percent=percent)
        assert main(["--compare", first, second, "--json", str(tmp_path / "compared.json")]) == 0
        values = results.read(tmp_path / "compared.json")
        assert values == json.loads(capsys.readouterr().out)
        pair = values["adapters"]["lilac"]["things"]
        assert (values["overlap"], pair["overlap"], pair["within"]) == (overlap, overlap, within)


def test_editions_that_do_not_compare_are_refused(edition, tmp_path, capsys):
    first, other = edition("a"), tmp_path / "other.json"
    results.write(other, {"captions": 5})
    assert "no adapter in common" in fails(capsys, "--compare", first, edition("b", adapter="edges"))
    assert "measured otherwise" in fails(capsys, "--compare", first, edition("c", steps=11))
    assert "measured otherwise" in fails(capsys, "--compare", first, edition("c", figure="skies"))
    assert "different checkpoints" in fails(capsys, "--compare", first, edition("c", checkpoint="y"))
    assert "no results of" in fails(capsys, "--compare", first, other)
    assert "is missing" in fails(capsys, "--compare", first, tmp_path / "no.json")


@pytest.mark.slow
def test_all_adapters_come_through_and_change_pictures(tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "adapters.json"
    assert main(["--out", str(out), "--smoke", "--json", str(file)]) == 0
    values, printed = results.read(file), capsys.readouterr()
    assert json.loads(printed.out) == values
    assert [entry["adapter"] for entry in values["adapters"]] == list(RECIPES)
    for entry in values["adapters"]:
        assert entry["small"], f"{entry['adapter']} has {entry['bytes']} bytes"
        assert f"{entry['adapter']}: trained in" in printed.err
    assert main(["--out", str(out), "--smoke"]) == 0  # nothing is left to do
    again = capsys.readouterr()
    assert json.loads(again.out) == values and "trained in" not in again.err
    assert main(["--compare", str(file), str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["overlap"]
    sd = StableDiffusion.load("tiny", "float32", [str(out / "evening.safetensors")])
    assert sd.model.loras[0]["path"].endswith("evening.safetensors")
