"""The manifest lists every file of an export, and tells a copy that lacks or changes one."""

import json
import shutil

import pytest

from coreml import info, manifest, verify
from mlx_sd.core.errors import InputError


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of an export, to be damaged."""
    return shutil.copytree(exported("small float32"), tmp_path / "copy")


def test_every_file_of_an_export_is_in_its_manifest(copy):
    files = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert info.read(copy)["files"].keys() == files - {"info.json"}
    manifest.check(copy, info.read(copy)["files"])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "removed": (lambda path: path.unlink(), "is missing"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, not the"),
    "flipped": (_flip, "its SHA-256 is not"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_copy_is_one_line_and_exit_code_2(kind, copy, capfd):
    damage, message = DAMAGE[kind]
    weights = max(copy.glob("UnetChunk1.mlpackage/**/*.bin"), key=lambda path: path.stat().st_size)
    damage(weights)
    assert verify.main([str(copy)]) == 2
    printed = capfd.readouterr()
    assert message in printed.err and str(weights) in printed.err and printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    "entry", [{"../info.json": {"bytes": 1, "sha256": "0"}}, {"vocab.json": {"bytes": "1"}}, {"vocab.json": 3}, []]
)
def test_a_damaged_manifest_is_refused(entry, copy):
    with pytest.raises(InputError, match=r"info\.json: files"):
        manifest.check(copy, entry)


def test_folders_of_version_1_are_still_read(copy):
    content = json.loads((copy / "info.json").read_text())
    del content["files"], content["controls"]
    (copy / "info.json").write_text(json.dumps(content | {"version": 1}))
    assert info.read(copy)["files"] == {} == info.read(copy)["controls"]
    assert len(list(verify.chains(copy))) == len(content["packages"])
    (copy / "info.json").write_text(json.dumps(content | {"version": 4}))
    with pytest.raises(InputError, match="of the format mlx-sd Core ML 1 to 3"):
        info.read(copy)
