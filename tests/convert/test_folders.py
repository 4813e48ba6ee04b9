"""A model folder is whole or not there, says whether it is what was written, and goes back to diffusers unchanged."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from convert import __main__ as command
from convert.files.diffusers_names import current_name
from mlx_sd.core.files import tensors
from tests.support import families, singles
from tests.support.effort import slow_but

UNET = "unet/diffusion_pytorch_model.safetensors"


def convert(source, out, *flags):
    return command.main(["--model", str(source), "--out", str(out), *flags])


def verify(folder, capsys):
    capsys.readouterr()
    code = command.main(["--verify", str(folder)])
    said = capsys.readouterr()
    assert (said.out + said.err).count("\n") == 1
    return code, said.out + said.err


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------------------------ verify


def test_a_folder_as_written_is_ok(model, capsys):
    code, said = verify(model, capsys)
    assert code == 0 and ": OK, 3 networks" in said and "6 files as written" in said
    assert set(json.loads((model / "model.json").read_text())["files"]) == bytes_of(model).keys() - {"model.json"}


def flip(path):
    with path.open("r+b") as f:
        f.seek(-1, os.SEEK_END)
        last = f.read(1)
        f.seek(-1, os.SEEK_END)
        f.write(bytes([last[0] ^ 1]))


DAMAGED = {
    "one bit": (lambda m: flip(m / "vae.safetensors"), 1, "vae.safetensors is not the file that was written"),
    "truncated": (lambda m: os.truncate(m / "unet.safetensors", 5000), 1, "unet.safetensors is damaged or incomplete"),
    "lost": (lambda m: (m / "vae.safetensors").unlink(), 1, "vae.safetensors is missing"),
    "lost tokenizer": (lambda m: shutil.rmtree(m / "tokenizer"), 1, "tokenizer has neither vocab.json"),
    "tokenizer": (lambda m: (m / "tokenizer/vocab.json").write_text("{"), 1, "vocab.json is not JSON"),
    "merges": (lambda m: flip(m / "tokenizer/merges.txt"), 1, "tokenizer/merges.txt is not the file that was written"),
    "config": (
        lambda m: edit(m / "model.json", lambda v: v["networks"]["unet"].update(in_channels=5)),
        1,
        "unet.safetensors does not fit model.json (down.stages.0.0.weight)",
    ),
    "unknown field": (
        lambda m: edit(m / "model.json", lambda v: v["networks"]["vae"].update(magic=1)),
        1,
        "vae: unknown field(s) magic",
    ),
    "scheduler": (
        lambda m: edit(m / "model.json", lambda v: v["scheduler"].update(prediction_type="x")),
        1,
        "prediction_type = 'x' is not supported",
    ),
    "dtype": (
        lambda m: edit(m / "model.json", lambda v: v.update(dtype="float16")),
        1,
        "holds F32, model.json says float16",
    ),
    "no networks": (lambda m: edit(m / "model.json", lambda v: v.pop("networks")), 1, "networks is missing or damaged"),
    "escape": (
        lambda m: edit(m / "model.json", lambda v: v["files"].update({"../x": "0"})),
        1,
        "names '../x', which is not in the folder",
    ),
    "no model.json": (lambda m: (m / "model.json").unlink(), 2, "model.json is missing"),
    "other format": (
        lambda m: edit(m / "model.json", lambda v: v.update(format="x")),
        2,
        "is not of the format mlx-sd",
    ),
    "future": (lambda m: edit(m / "model.json", lambda v: v.update(version=99)), 2, "convert the checkpoint again"),
    "nested": (lambda m: (m / "model.json").write_text("[" * 100_000), 2, "nested too deeply"),
    "huge number": (lambda m: (m / "model.json").write_text("1" * 5000), 2, "is not JSON"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_named(name, model, capsys):
    damage, wanted, message = DAMAGED[name]
    damage(model)
    code, said = verify(model, capsys)
    assert code == wanted and message in said, said


def test_a_file_that_cannot_be_read_is_named_once(model, capsys):
    (model / "vae.safetensors").unlink()
    assert verify(model, capsys)[1].count("vae.safetensors is missing") == 1
    (model / "model.json").write_text("{")
    code, line = verify(model, capsys)
    assert code == 2 and "model.json is not JSON" in line and line.count("; convert the checkpoint again") == 1


def test_many_problems_are_counted(model, capsys):
    for file in [*model.glob("*.safetensors"), *model.glob("tokenizer/*")]:
        file.unlink()
    assert "and 3 more" in verify(model, capsys)[1]


def test_a_hub_snapshot_is_recorded_by_its_commit(folder, tmp_path):
    commit = "0123456789abcdef" * 2 + "01234567"
    snapshot = tmp_path / "models--x--y" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    assert convert(snapshot, tmp_path / "out") == 0
    about = json.loads((tmp_path / "out/model.json").read_text())
    assert about["source"]["revision"] == commit and about["source"]["converter"].startswith("mlx-sd ")


# ------------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("name", slow_but(["sd1"], families.FAMILIES))
def test_back_to_diffusers_is_the_identity(name, shapes, tmp_path):
    """On names, shapes and numbers; and converted again, on every byte of the networks."""
    folder = families.write_folder(name, shapes[name], tmp_path / "folder")
    assert convert(folder, tmp_path / "model") == 0
    assert convert(tmp_path / "model", tmp_path / "back", "--to", "diffusers") == 0
    for part in families.networks(name):
        (first,), (second,) = (list((tmp_path / f / part).glob("*.safetensors")) for f in ("folder", "back"))
        one = {current_name(n): a for n, a in load_file(first).items()}
        two = {current_name(n): a for n, a in load_file(second).items()}
        assert first.name == second.name and one.keys() == two.keys()
        assert all(np.array_equal(one[n], two[n]) for n in one)
        configs = [json.loads((tmp_path / f / part / "config.json").read_text()) for f in ("folder", "back")]
        assert configs[0] == configs[1]
    assert bytes_of(tmp_path / "folder/tokenizer") == bytes_of(tmp_path / "back/tokenizer")
    index, back = (json.loads((tmp_path / f / "model_index.json").read_text()) for f in ("folder", "back"))
    assert back.items() >= index.items()
    assert convert(tmp_path / "back", tmp_path / "again") == 0
    one, two = bytes_of(tmp_path / "model"), bytes_of(tmp_path / "again")
    assert all(one[n] == two[n] for n in one if n != "model.json") and one.keys() == two.keys()


@pytest.mark.parametrize("name", slow_but(["sd1"], singles.NAMES))
def test_a_single_file_becomes_a_diffusers_folder_that_reads_the_same(name, shapes, tmp_path):
    file, weights = singles.write(name, shapes, tmp_path / "x.safetensors")
    families.write_tokenizer(tmp_path / "tokenizer", "!")
    flags = ["--tokenizer", str(tmp_path / "tokenizer"), "--to", "diffusers"]
    assert convert(file, tmp_path / "folder", *flags) == 0
    for part, arrays in weights.items():
        (found,) = (tmp_path / "folder" / part).glob("*.safetensors")
        written = {current_name(n): a for n, a in load_file(found).items()}
        assert written.keys() == {current_name(n) for n in arrays}
        assert all(np.array_equal(written[current_name(n)], a) for n, a in arrays.items())
    assert convert(tmp_path / "folder", tmp_path / "model") == 0
    assert (tmp_path / "folder/low_res_scheduler").is_dir() == (name == "upscaler")


def test_dtype_can_be_chosen_on_the_way_back_and_nothing_else(model, tmp_path, capsys):
    assert convert(model, tmp_path / "back", "--to", "diffusers", "--dtype", "float16") == 0
    assert {t.dtype for file in tmp_path.glob("back/*/*.safetensors") for t in tensors(file)} == {"F16"}
    assert convert(model, tmp_path / "other", "--to", "diffusers", "--variant", "fp16") == 2
    assert "is converted already; of the options only --dtype" in capsys.readouterr().err


def test_half_precision_stays_as_it_is_on_the_way_back(original, tmp_path):
    assert convert(original, tmp_path / "model", "--dtype", "bfloat16") == 0
    assert convert(tmp_path / "model", tmp_path / "back", "--to", "diffusers") == 0
    assert {t.dtype for file in tmp_path.glob("back/*/*.safetensors") for t in tensors(file)} == {"BF16"}


# ------------------------------------------------------------------------------------------------ links


def test_links_inside_a_folder_and_into_a_hubs_blobs_are_followed(folder, tmp_path):
    commit = "a" * 40
    home = tmp_path / "models--x--y"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots").mkdir()
    folder.rename(home / "snapshots" / commit)
    for number, file in enumerate([p for p in (home / "snapshots").rglob("*") if p.is_file()]):
        file.rename(home / "blobs" / f"{number}")
        file.symlink_to(os.path.relpath(home / "blobs" / f"{number}", file.parent))
    assert convert(home / "snapshots" / commit, tmp_path / "out") == 0
    (tmp_path / "link").symlink_to(home / "snapshots" / commit)  # the user's own name for it
    assert convert(tmp_path / "link", tmp_path / "out2") == 0


@pytest.mark.parametrize("name", [UNET, "tokenizer/merges.txt", "vae/config.json", "model_index.json", "unet"])
def test_links_out_of_a_folder_are_refused(name, folder, tmp_path, capsys):
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    assert convert(folder, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "is a link out of" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
