"""The pin of coreai-core: the private names that are used are in one module, and do what that module says of them."""

import ast
import hashlib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from coreml.coreai import availability
from coreml.coreai.coreai_core import (
    AIModelAsset,
    AIModelAssetMetadata,
    AIProgram,
    Module,
    TensorType,
    Value,
    constant,
    graph,
    operations,
    packed_constant,
    save,
)
from coreml.coreai.emitter import Var
from coreml.coreai.runtime import Runtime
from tests.support import core_ai

ROOT = Path(__file__).parent.parent.parent.parent
ONLY = ROOT / "coreml/coreai/coreai_core.py"


def test_the_installed_version_is_the_pinned_one():
    assert metadata.version(availability.DISTRIBUTION) == availability.VERSION


def imports(file: Path) -> set[str]:
    """The names that a file imports from coreai: its modules, and what is taken from them."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "coreai"}


def test_private_names_are_in_one_module():
    packages = [file for package in ("mlx_sd", "convert", "coreml", "bench") for file in (ROOT / package).rglob("*.py")]
    using = {file: imports(file) for file in packages if imports(file)}
    assert any("._" in name for name in using[ONLY])
    private = {file: names for file, names in using.items() if file != ONLY and any("._" in name for name in names)}
    assert private == {}
    # The process that runs assets takes public names alone; everything else goes through the one module.
    assert using.keys() == {ONLY, ROOT / "coreml/coreai/child.py"}


def program() -> AIProgram:
    """A program with a constant of a few kilobytes."""
    module = Module.create()
    tensor = TensorType((3, 4), np.float32, name="x")
    with module:

        def main(x):
            return operations.broadcasting_add(x, constant(np.arange(12, dtype=np.float32).reshape(3, 4)))

        main.__annotations__ = {"x": _annotated(tensor), "return": _annotated(tensor.with_name("y"))}
        graph(main, provided_name="main")
    return AIProgram(module)


def _annotated(tensor: TensorType):
    from typing import Annotated

    return Annotated[Value, tensor]


def test_an_asset_is_saved_as_apples_code_saves_it(tmp_path):
    """Memory is why it is not Apple's code: that reads all weights back at once to hash them."""
    ours, theirs = tmp_path / "ours.aimodel", tmp_path / "theirs.aimodel"
    description = AIModelAssetMetadata()
    description.author = "me"
    sha256 = save(program(), ours, description)
    program().save_asset(theirs, description)
    assert {p.name for p in ours.iterdir()} == {p.name for p in theirs.iterdir()}
    assert (ours / "main.mlirb").read_bytes() == (theirs / "main.mlirb").read_bytes()
    assert (ours / "main.hash").read_bytes() == (theirs / "main.hash").read_bytes() == bytes.fromhex(sha256)
    assert sha256 == hashlib.sha256((ours / "main.mlirb").read_bytes()).hexdigest()
    same = {(asset.metadata.author, asset.metadata._producer) for asset in map(AIModelAsset.load, (ours, theirs))}
    assert len(same) == 1


def test_nothing_that_exists_is_replaced(tmp_path):
    """Apple's code removes an existing path first, whatever it is."""
    mine = tmp_path / "x.aimodel/mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(FileExistsError):
        save(program(), mine.parent, AIModelAssetMetadata())
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(("bits", "signed"), [*((bits, False) for bits in (1, 2, 3, 4, 6, 8)), (4, True), (8, True)])
def test_constants_of_few_bits_hold_their_numbers(bits, signed, tmp_path):
    first = -(1 << bits - 1) if signed else 0
    numbers = np.random.default_rng(bits).integers(first, first + (1 << bits), (5, 7))
    array = numbers.astype(np.int8 if signed else np.uint8)
    x = np.ones((5, 7), np.float16)

    def build(_, x):
        if signed:
            scale, zero = constant(np.ones((5, 1), np.float16)), packed_constant(np.zeros((5, 1), np.int8), bits, True)
            zeros = constant(np.zeros((5, 1), np.float16))
            dense = operations.blockwise_shift_scale(packed_constant(array, bits, True), scale, zero, zeros)
        else:
            table = constant(np.arange(1 << bits, dtype=np.float16).reshape(1, 1, -1, 1))
            dense = operations.lut_to_dense(packed_constant(array, bits), table, constant(np.int16(0)))
        return Var(operations.mul(x.value, dense), (5, 7), x.dtype)

    core_ai.write({"main": ({"x": x}, build)}, tmp_path / "x.aimodel")
    runtime = Runtime(tmp_path / "x.aimodel")
    assert np.array_equal(runtime.run("main", {"x": x})["y"], numbers.astype(np.float16))
    runtime.close()
