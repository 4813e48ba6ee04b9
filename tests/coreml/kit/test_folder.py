"""A kit replaces earlier kits by force only, never a folder that is none, and a damaged one is told."""

import json
import shutil

import pytest

from coreml import verify
from coreml.__main__ import main
from coreml.kit import picture
from coreml.kit.selection import is_kit
from coreml.mil import package
from mlx_sd.core.errors import Failure

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning")


@pytest.fixture
def arguments(model, tmp_path, monkeypatch):
    """The words of an export whose packages are only described."""
    monkeypatch.setattr(package, "write", lambda *a: a[-1].mkdir() or {})
    monkeypatch.setattr(package, "write_metadata", lambda *_: None)
    return ["--model", model("small").model.name, "--out", str(tmp_path / "out"), "--steps", "2"]


def _without_kit(arguments):
    return [word for word in arguments if word not in ("--steps", "2")]


def test_an_earlier_kit_is_replaced_by_force_and_does_not_stay_behind(arguments, tmp_path, capfd):
    out = tmp_path / "out"
    assert main([*arguments, "--kit"]) == 0
    assert is_kit(out / "kit")
    first = (out / "kit/kit.json").stat().st_mtime_ns
    assert main([*arguments, "--kit"]) == 2
    assert "--force" in capfd.readouterr().err
    assert (out / "kit/kit.json").stat().st_mtime_ns == first
    assert main([*arguments, "--kit", "--force", "--sampler", "euler"]) == 0
    assert {p.name.partition("-")[0] for p in (out / "kit/tables").iterdir()} == {"euler"}
    assert main([*_without_kit(arguments), "--force"]) == 0
    assert not (out / "kit").exists()


def test_a_folder_that_is_no_kit_is_left_alone(arguments, tmp_path, capfd):
    mine = tmp_path / "out/kit/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for force in ([], ["--force"]):
        assert main([*arguments, "--kit", *force]) == 2
        assert capfd.readouterr().err.count("\n") == 1
    assert main(_without_kit(arguments)) == 0
    assert mine.read_text() == "mine"


def test_options_of_the_kit_without_it_are_named(arguments, tmp_path, capfd):
    assert main(arguments) == 2
    assert "--steps is of the kit's tables: add --kit" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_kit_that_cannot_be_made_leaves_nothing(arguments, tmp_path, monkeypatch, capfd):
    def fail(*_):
        raise Failure("the latents are not finite")

    monkeypatch.setattr(picture, "write", fail)
    assert main([*arguments, "--kit"]) == 1
    assert "not finite" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ("tables/dpmpp_2m-karras-6.json", "noise/noise-cuda-0.f32", "README.md"))
def test_a_damaged_kit_is_one_line(file, kitted, tmp_path, capfd):
    copy = shutil.copytree(kitted("small float32"), tmp_path / "copy")
    path = copy / "kit" / file
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    assert verify.main([str(copy)]) == 2
    printed = capfd.readouterr().err
    assert str(path) in printed and printed.count("\n") == 1


def test_a_kit_says_what_it_is_of(kitted):
    folder = kitted("small float32") / "kit"
    readme = (folder / "README.md").read_text()
    assert "@" not in readme.replace("me@", "")
    content = json.loads((folder / "kit.json").read_text())
    for entry in content["tables"]:
        assert f"`{entry['file']}`" in readme
    assert (folder / "LICENSE.txt").read_text().startswith("MIT License")
