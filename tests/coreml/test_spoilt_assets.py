"""More than forty spoilt assets: each is one line and exit code 2, and none ends the process that looks at it."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from coreml.__main__ import main
from tests.support.effort import slow_but
from tests.support.exports import CORE_AI, SMALL, leave_out

Spoil = Callable[[Path], object]


def bytecode(change: Callable[[bytes], bytes], hashed: bool = False) -> Spoil:
    """Changes main.mlirb; with its hash, what only the runtime can notice."""

    def spoil(asset: Path) -> None:
        file = asset / "main.mlirb"
        data = change(file.read_bytes())
        file.write_bytes(data)
        if hashed:
            (asset / "main.hash").write_bytes(hashlib.sha256(data).digest())

    return spoil


def flipped(place: float) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        i = int(place * (len(data) - 1))
        return data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :]

    return change


def without(name: str) -> Spoil:
    return lambda asset: (asset / name).unlink()


def written(name: str, data: bytes) -> Spoil:
    return lambda asset: (asset / name).write_bytes(data)


def metadata(change: Callable[[dict], object]) -> Spoil:
    """Changes the content of info.json in metadata.json."""

    def spoil(asset: Path) -> None:
        content = json.loads((asset / "metadata.json").read_text(encoding="utf-8"))
        change(content)
        (asset / "metadata.json").write_text(json.dumps(content), encoding="utf-8")

    return spoil


def inside(change: Callable[[dict], object]) -> Spoil:
    return metadata(lambda content: change(content["creatorDefinedMetadata"]["mlx_sd"]))


def function(content: dict) -> dict:
    return content["packages"]["TextEncoder"]["functions"]["main"]


def port(content: dict, name: str, kind: str = "inputs") -> dict:
    return function(content)[kind][name]


def folder_instead(asset: Path) -> None:
    (asset / "main.mlirb").unlink()
    (asset / "main.mlirb").mkdir()


def file_instead(asset: Path) -> None:
    shutil.rmtree(asset)
    asset.write_bytes(b"an asset")


def renamed_function(content: dict) -> None:
    functions = content["packages"]["TextEncoder"]["functions"]
    functions["other"] = functions.pop("main")


ASSETS: dict[str, Spoil] = {
    **{f"cut at {share:.0%}": bytecode(lambda d, s=share: d[: int(s * len(d))]) for share in (0, 0.01, 0.5, 0.99)},
    **{f"flipped at {place:.1%}": bytecode(flipped(place)) for place in (0, 0.001, 0.3, 0.6, 0.9, 1)},
    "longer by a byte": bytecode(lambda d: d + b"\0"),
    "zeros": bytecode(lambda d: bytes(len(d))),
    "another file": bytecode(lambda d: b"PK\3\4" + d[4:]),
    # With the right hash: these reach the runtime, which aborts.
    **{
        f"cut at {share:.0%}, hashed": bytecode(lambda d, s=share: d[: int(s * len(d))], True)
        for share in (0, 0.1, 0.9)
    },
    "head of zeros, hashed": bytecode(lambda d: bytes(64) + d[64:], True),
    "text, hashed": bytecode(lambda d: b"not bytecode", True),
    "flipped head, hashed": bytecode(flipped(0), True),
    "no main.mlirb": without("main.mlirb"),
    "no main.hash": without("main.hash"),
    "no metadata.json": without("metadata.json"),
    "main.mlirb is a folder": folder_instead,
    "empty hash": written("main.hash", b""),
    "short hash": written("main.hash", bytes(31)),
    "hash of another file": written("main.hash", bytes(32)),
    "hash in hexadecimal digits": lambda a: (a / "main.hash").write_text((a / "main.hash").read_bytes().hex()),
    "metadata is not JSON": written("metadata.json", b"{"),
    "metadata is a list": written("metadata.json", b"[]"),
    "metadata is not text": written("metadata.json", b"\xff\xfe"),
    "metadata is empty": written("metadata.json", b"{}"),
    "of another program": metadata(lambda content: content.pop("creatorDefinedMetadata")),
    "entry is text": metadata(lambda content: content.update(creatorDefinedMetadata={"mlx_sd": "x"})),
    "no packages": inside(lambda content: content.pop("packages")),
    "packages is a list": inside(lambda content: content.update(packages=[])),
    "no options": inside(lambda content: content.pop("options")),
    "another package": inside(lambda content: content.update(packages={"Other": {"functions": {}}})),
    "no inputs": inside(lambda content: function(content).pop("inputs")),
    "an unknown role": inside(lambda content: function(content).update(role="unet_of_others")),
    "a function that it has not": inside(renamed_function),
    "another shape of an input": inside(lambda content: port(content, "input_ids").update(shape=[1, 76])),
    "an input of another rank": inside(lambda content: port(content, "input_ids").update(shape=[1, 77, 1])),
    "another shape of an output": inside(
        lambda content: port(content, "pooled_outputs", "outputs").update(shape=[1, 33])
    ),
    "another type of an input": inside(lambda content: port(content, "input_ids").update(dtype="float32")),
    "an input more": inside(lambda c: function(c)["inputs"].update(mask={"shape": [1, 77], "dtype": "float32"})),
    "an output less": inside(lambda content: function(content)["outputs"].pop("pooled_outputs")),
    "a shape that is text": inside(lambda content: port(content, "input_ids").update(shape="x")),
    "a size that is text": inside(lambda content: function(content).update(size="x")),
    "no counts of operations": inside(lambda content: function(content).pop("macs_by_operation")),
    "an unknown form of attention": inside(lambda content: content["options"].update(attention="flash")),
    "a file": file_instead,
    "an empty folder": lambda a: [file.unlink() for file in a.iterdir()],
}


PORTS = ("an input of another rank", "another shape of an output", "an input more", "an output less")


@pytest.fixture(scope="module")
def asset(exported):
    return exported(SMALL, dtype="float32", attention="fused", **CORE_AI) / "TextEncoder.aimodel"


def test_there_are_forty_and_more(asset, tmp_path):
    """That differ in what is in the asset, not in their names alone."""
    contents = set()
    for i, spoil in enumerate(ASSETS.values()):
        copy = Path(shutil.copytree(asset, tmp_path / str(i)))
        spoil(copy)
        files = [copy, *sorted(copy.rglob("*"))] if copy.is_dir() else [copy]
        contents.add(tuple((f.name if f != copy else "", f.read_bytes() if f.is_file() else None) for f in files))
    assert len(contents) == len(ASSETS) >= 50


@pytest.mark.parametrize("name", slow_but([name for name in ASSETS if name not in PORTS], ASSETS))
def test_a_spoilt_asset_is_one_line(name, asset, model, tmp_path, capfd):
    copy = Path(shutil.copytree(asset, tmp_path / "TextEncoder.aimodel"))
    ASSETS[name](copy)
    assert main(["verify", str(copy), "--model", model(SMALL).model.name]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "TextEncoder.aimodel" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == [copy]


def test_the_asset_itself_is_right(asset, model):
    assert main(["verify", str(asset), "--model", model(SMALL).model.name]) == 0


# ------------------------------------------------------------------------------------------------ folders


@pytest.fixture
def folder(exported, tmp_path):
    return Path(shutil.copytree(exported(SMALL, dtype="float32", attention="fused", **CORE_AI), tmp_path / "folder"))


def info_json(change: Callable[[dict], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "info.json").read_text())
        change(content)
        content["files"] = {}
        (folder / "info.json").write_text(json.dumps(content))

    return spoil


def unet(content: dict) -> dict:
    return content["packages"]["Unet"]["functions"]["full"]


FOLDERS: dict[str, Spoil] = {
    "no info.json": lambda f: (f / "info.json").unlink(),
    "info.json of another format": info_json(lambda content: content.update(format="other")),
    "info.json of a later version": info_json(lambda content: content.update(version=99)),
    "an asset is missing": lambda f: shutil.rmtree(f / "VAEDecoder.aimodel"),
    "an asset in the place of another": lambda f: (
        shutil.rmtree(f / "VAEDecoder.aimodel"),
        shutil.copytree(f / "VAEEncoder.aimodel", f / "VAEDecoder.aimodel"),
    ),
    "an asset of another export": info_json(lambda c: c["packages"]["VAEDecoder"].update(sha256="0" * 64)),
    "a flipped byte": lambda f: bytecode(flipped(0.5))(f / "Unet.aimodel"),
    "another shape of an input": info_json(lambda c: unet(c)["inputs"]["timestep"].update(shape=[3])),
    "another type of an output": info_json(lambda c: unet(c)["outputs"]["noise_pred"].update(dtype="float16")),
    "a role of another function": info_json(lambda c: c["roles"]["64x64"].update(vae_decoder=[["VAEEncoder", "main"]])),
    "a role that is a number": info_json(lambda c: c["roles"]["any"].update(text_encoder=3)),
}
LOADED = ("another type of an output", "a role of another function")  # these take a second or two
IN_DRIVE = ("a role of another function",)  # verify goes by the functions, not by the roles


@pytest.mark.parametrize("command", ("verify", "drive"))
@pytest.mark.parametrize("name", slow_but([name for name in FOLDERS if name not in LOADED], FOLDERS))
def test_a_spoilt_folder_is_one_line(name, command, folder, model, tmp_path, capfd):
    FOLDERS[name](folder)
    if command == "verify" and name in IN_DRIVE:
        return
    words = {"verify": [str(folder), "--model", model(SMALL).model.name], "drive": [str(folder), "a tent"]}[command]
    picture = tmp_path / "x.png"
    options = ["--output", str(picture), "--seed", "0", "--steps", "2", "--deepcache", "2"]
    assert main([command, *words, *(options if command == "drive" else [])]) == 2
    err = capfd.readouterr().err
    assert err.rstrip().splitlines()[-1].startswith(("coreml verify: ", "mlx_sd.generate: ")) and "Traceback" not in err
    assert not picture.exists()


def test_an_unwritable_folder_is_one_line(family, tmp_path, monkeypatch, capfd):
    leave_out(monkeypatch, ("text_encoder",))
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    arguments = ["--model", family("sd1").model.name, "--format", "coreai", "--out"]
    for out in (blocked, blocked / "out", Path("/proc/out")):
        assert main([*arguments, str(out)]) == 2
        assert capfd.readouterr().err.count("\n") == 1
    assert blocked.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_export_leaves_nothing(family, tmp_path, monkeypatch, capfd):
    from coreml import assets

    leave_out(monkeypatch, ("text_encoder",))

    def interrupted(*_, **__):
        raise KeyboardInterrupt  # as Ctrl-C does, also where a background job ignores the signal

    monkeypatch.setattr(assets.subprocess, "run", interrupted)
    arguments = ["--model", family("sd1").model.name, "--format", "coreai", "--out", str(tmp_path / "out")]
    assert main(arguments) == 130
    assert "interrupted" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
