"""A package that is damaged, incomplete or of another kind is refused when it is loaded, in one line."""

import shutil

import hypothesis.strategies as st
import pytest
from hypothesis import given

from coreml.interpret.package import Package
from coreml.mil.coremltools import model_messages
from mlx_sd.core.errors import InputError
from tests.support.programs import weighted

# What can be wrong with a package: file, change of its bytes (None removes it), and the message.
DAMAGE = {
    "no manifest": ("Manifest.json", None, "Manifest.json is missing"),
    "half a manifest": ("Manifest.json", lambda b: b[: len(b) // 2], "is not JSON"),
    "a manifest without a model": ("Manifest.json", lambda b: b"{}", "names no model"),
    "a manifest that leads out": (
        "Manifest.json",
        lambda b: b.replace(b"com.apple.CoreML/model.mlmodel", b"../../model.mlmodel"),
        "not in the package",
    ),
    "no model": ("model.mlmodel", None, "model.mlmodel is missing"),
    "half a model": ("model.mlmodel", lambda b: b[: len(b) // 2], "damaged or incomplete"),
    "an empty model": ("model.mlmodel", lambda b: b"", "not an ML program"),
    "no weights": ("weight.bin", None, "weight.bin is missing"),
    "empty weights": ("weight.bin", lambda b: b"", "incomplete"),
    "a header's worth of weights": ("weight.bin", lambda b: b[:64], "incomplete"),
    "weights cut in a blob": ("weight.bin", lambda b: b[:200], "incomplete"),
    "weights cut near the end": ("weight.bin", lambda b: b[:-40], "incomplete"),
    "another version": ("weight.bin", lambda b: b[:4] + b"\x07" + b[5:], "version"),
    "another magic": ("weight.bin", lambda b: b[:64] + b"\x00" + b[65:], "damaged"),
    "another type": ("weight.bin", lambda b: b[:68] + b"\x01" + b[69:], "damaged"),
    "another size": ("weight.bin", lambda b: b[:72] + b"\x01" + b[73:], "damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_package_is_refused_when_loaded(tmp_path, damage):
    name, change, message = DAMAGE[damage]
    path, _ = weighted(tmp_path)
    Package.load(path)
    (file,) = path.rglob(name)
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match=message) as error:
        Package.load(path)
    assert "\n" not in str(error.value)


@given(share=st.floats(0, 0.999))
def test_weights_cut_anywhere_are_refused(tmp_path, share):
    original = tmp_path / "original"
    if not original.exists():
        original.mkdir()
        weighted(original)
    path = tmp_path / "cut.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(original / "model.mlpackage", path)
    (file,) = path.rglob("weight.bin")
    data = file.read_bytes()
    end = max(s + n for s, n in _blobs(data))
    file.write_bytes(data[: int(end * share)])
    with pytest.raises(InputError, match=r"incomplete|missing"):
        Package.load(path)


def _blobs(data: bytes) -> list[tuple[int, int]]:
    """Where each blob of a weight file starts and how long it is."""
    blobs, at = [], data.find(b"\xef\xbe\xad\xde")
    while at >= 0:
        size, start = (int.from_bytes(data[at + k : at + k + 8], "little") for k in (8, 16))
        blobs.append((start, size))
        at = data.find(b"\xef\xbe\xad\xde", start + size)
    return blobs


def test_anything_but_an_ml_program_is_refused(tmp_path):
    missing, file, compiled, other = (tmp_path / n for n in ("no.mlpackage", "a.mlmodel", "b.mlmodelc", "c"))
    file.write_bytes(b"model")
    compiled.mkdir()
    other.mkdir()
    for path, message in (
        (missing, "not exist"),
        (file, "is a file"),
        (compiled, "compiled"),
        (other, "Manifest.json"),
    ):
        with pytest.raises(InputError, match=message):
            Package.load(path)
    path, _ = weighted(tmp_path)
    (spec,) = path.rglob("model.mlmodel")
    network = model_messages.Model()
    network.neuralNetwork.layers.add().name = "one"
    spec.write_bytes(network.SerializeToString())
    with pytest.raises(InputError, match="neuralNetwork"):
        Package.load(path)
