"""The list of models says what their files are, and only a model of the cache is ever removed."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest

from mlx_sd import model_list, resolve
from mlx_sd.cli import model_command
from mlx_sd.core.errors import InputError
from tests.support import adapters_beside, image_prompts


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, original):
    """A cache and a hub's cache with the tiny sd1 checkpoint in each, and a folder of models."""
    folder = tmp_path_factory.mktemp("places")
    snapshot = folder / "hub" / "models--owner--tiny-sd" / "snapshots" / "0123"
    shutil.copytree(original, snapshot)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_SD_CACHE", str(folder / "cache"))
        shutil.copytree(resolve.model_folder(str(snapshot)), folder / "models" / "mine")
    return folder


@pytest.fixture
def places(tmp_path, monkeypatch, prepared):
    """A copy of them that mlx-sd takes for its own."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("MLX_SD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    def call(*words):
        try:
            code = model_command.main(list(map(str, words)))
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")}


def test_every_place_is_listed_with_what_its_files_say(places, run):
    code, out, err = run("--json")
    assert code == 0 and err == ""
    entries = {entry["name"]: entry for entry in json.loads(out)}
    (cached,) = model_list.cached()
    assert list(entries) == ["tiny", "tiny-classes", "tiny-tokens", cached.name, "owner/tiny-sd", "models/mine"]
    assert [entry["place"] for entry in entries.values()] == [
        "embedded",
        "embedded",
        "embedded",
        "cache",
        "hub",
        "folder",
    ]
    families = {name: entry["family"] for name, entry in entries.items()}
    assert families.pop("tiny-classes") == "class-conditional diffusion"
    assert families.pop("tiny-tokens") == "discrete diffusion over tokens"
    assert {*families.values()} == {"Stable Diffusion 1"}
    assert entries["tiny"]["dtype"] == "float16" and entries[cached.name]["dtype"] == "float32"
    assert entries[cached.name]["format"] == "mlx-sd 3" and entries["owner/tiny-sd"]["format"].startswith("diffusers")
    assert cached.source.endswith("models--owner--tiny-sd/snapshots/0123")
    assert cached.size == sum(path.stat().st_size for path in cached.path.rglob("*") if path.is_file())
    table = run()[1].splitlines()
    assert table[0].split() == ["NAME", "WHERE", "FAMILY", "SIZE", "DTYPE", "FORMAT", "FROM"] and len(table) == 7


def test_damaged_files_do_not_stop_the_list(places, run):
    (cached,) = model_list.cached()
    (cached.path / "model.json").write_text("{")
    (cached.path / "unet.safetensors").write_bytes(b"\xff" * 20)
    (places / "models" / "mine" / "model.json").write_text(
        '{"networks": {"unet": {"in_channels": "x"}}, "pipeline": 3}'
    )
    code, out, _ = run("--json")
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert code == 0 and entries[cached.name]["family"] == entries["models/mine"]["family"] == "-"
    assert entries[cached.name]["dtype"] == "-"


@pytest.mark.parametrize("by", ["name", "source"])
def test_a_model_is_removed_whole_and_nothing_else(places, run, by):
    (cached,) = model_list.cached()
    before = tree(places)
    name = getattr(cached, by)
    code, out, _ = run("remove", name, "--yes")
    assert (code, out.startswith(f"{cached.name} is removed")) == (0, True)
    inside = f"cache/{cached.name}"
    assert tree(places) == {path: size for path, size in before.items() if not path.startswith(inside)}


def test_networks_beside_models_are_listed_and_removed(places, run, family):
    adapters_beside.write_folder(places / "sketch", "full")
    image_prompts.write(places / "base.safetensors", "base", family("sd1").unet)
    resolve.adapter_folder("sketch")
    resolve.ip_adapter_folder("base.safetensors")
    resolve.image_encoder_folder(None, "base.safetensors", "x")
    models = {entry.family: entry for entry in model_list.cached()}
    assert {"T2I-Adapter", "IP-Adapter", "image encoder"} < set(models)
    adapter = models["T2I-Adapter"]
    assert (adapter.source, adapter.dtype, adapter.format) == ("sketch", "float32", "mlx-sd 1")
    code, _, _ = run("remove", "sketch", "--yes")
    assert code == 0 and not adapter.path.exists() and models["IP-Adapter"].path.exists()


def test_without_a_yes_it_stays(places, run, monkeypatch):
    (cached,) = model_list.cached()
    before = tree(places)
    code, _, err = run("remove", cached.name)  # no terminal to ask at
    assert code == 2 and "only removed after a question, or with --yes" in err and tree(places) == before
    terminal = io.StringIO("no\n\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    for _ in range(2):
        assert run("remove", cached.name)[0] == 0 and tree(places) == before
    terminal.seek(0)
    terminal.write("y\n")
    terminal.seek(0)
    code, out, _ = run("remove", cached.name)
    assert code == 0 and f"remove {cached.name}, " in out and not cached.path.exists()


def test_nothing_outside_the_cache_is_removed(places, run):
    (cached,) = model_list.cached()
    (places / "cache" / "link").symlink_to(places / "models" / "mine")
    before = tree(places)
    for name, message in {
        "tiny": "is a part of mlx-sd and stays",
        "owner/tiny-sd": "which other programs use too: hf cache rm model/owner/tiny-sd",
        "models/mine": "models/mine is not in the cache",
        "link": "is not in the cache",
        "../models/mine": "there is no model '../models/mine' in the cache",
        "..": "is not in the cache",
        "/": "is not in the cache",
        cached.name[:-1]: f"did you mean {cached.name!r}?",
        "": "remove which?",
    }.items():
        code, out, err = run("remove", name, "--yes")
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1, (name, err)
    assert tree(places) == before
    outside = model_list.Entry("x", "cache", places / "models" / "mine")
    with pytest.raises(InputError):
        model_list.remove(outside)
    assert tree(places) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tiny",), "invalid choice: 'tiny'"),
        (("list", "tiny"), "'tiny' goes with remove"),
        (("--yes",), "--yes goes with remove"),
        (("--folder", "none"), "--folder none: does not exist"),
        (("remove", "x", "--json"), "--json and --folder are of the list"),
    ],
)
def test_what_does_not_go_together_is_named(run, words, message):
    code, _, err = run(*words)
    assert code == 2 and message in err and err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root removes anything")
def test_a_model_that_cannot_be_removed_stays_whole(places, run):
    (cached,) = model_list.cached()
    cached.path.parent.chmod(0o555)
    code, _, err = run("remove", cached.name, "--yes")
    cached.path.parent.chmod(0o755)
    assert code == 1 and "cannot be removed" in err and cached.path.is_dir()
