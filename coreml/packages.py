"""Writing the .mlpackage packages of an export: whole, as functions of one, or cut into pieces."""

import math
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np

from mlx_sd.core.errors import Failure
from mlx_sd.core.files import Tensor
from mlx_sd.networks.graph import Graph

from . import info
from .lowering import split
from .lowering.graph import record
from .lowering.interfaces import FunctionSpec
from .mil import emitter, package
from .plan import Entry, Item, Options, weight_bytes

GIGABYTE = 10**9  # bytes of weights that iOS takes in one package


def write(
    item: Item, network: nn.Module, stored: Mapping[str, Tensor], home: Path, options: Options
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Writes an item's package, or its pieces; yields the name and the description of each for info.json."""
    (home / item.name).parent.mkdir(parents=True, exist_ok=True)  # of control networks
    if len(item.functions) > 1:
        path = home / f"{item.name}.mlpackage"
        with tempfile.TemporaryDirectory(dir=home) as temporary:
            packages = {name: Path(temporary, f"{name}.mlpackage") for name in item.functions}
            functions = {
                name: _save(entry, entry.spec, record(entry.spec, network), stored, packages[name], options)
                for name, entry in item.functions.items()
            }
            package.join(packages, path)
        yield item.name, _finish(path, functions, options)
        return
    (entry,) = item.functions.values()
    graph = record(entry.spec, network)
    size = weight_bytes(stored, options, set(graph.parameters.values()))
    names = item.pieces or (item.name,)
    if options.split and not item.pieces and size > GIGABYTE:
        names = tuple(f"{item.name}Part{i + 1}" for i in range(2 ** math.ceil(math.log2(size / GIGABYTE))))
    for i, (spec, piece) in enumerate(_cut(entry.spec, graph, len(names))):
        path = home / f"{names[i]}.mlpackage"
        functions = {"main": _save(entry, spec, piece, stored, path, options)}
        yield names[i], _finish(path, functions, options, (i + 1, len(names)))


def _finish(path: Path, functions: dict[str, Any], options: Options, piece: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """Writes into a package what `verify` needs to know of it; returns its description for info.json."""
    for function in functions.values():
        function["piece"] = list(piece)
    short = {name: {"role": f["role"], "size": f["size"]} for name, f in functions.items()}
    metadata = {"functions": short, "branch": options.branch, "piece": piece, "compress": options.compress}
    metadata |= {"control": list(options.control)} if options.control else {}
    package.write_metadata(path, metadata)
    return {"bytes": package.size(path), "functions": functions}


def _cut(spec: FunctionSpec, graph: Graph, count: int) -> list[tuple[FunctionSpec, Graph]]:
    """Returns a function in `count` pieces, a power of two."""
    if count < 2:
        return [(spec, graph)]
    return [piece for half in split.halves(spec, graph) for piece in _cut(*half, count // 2)]


def _save(
    entry: Entry, spec: FunctionSpec, graph: Graph, stored: Mapping[str, Tensor], path: Path, options: Options
) -> dict[str, Any]:
    """Lowers one function and saves it as a package; returns its description for info.json."""

    def read(name: str) -> np.ndarray:
        """Reads a parameter in the dtype that was recorded."""
        return np.array(stored[name].read().astype(spec.weights))

    weight = emitter.weights(options.compress, options.target, spec.part)
    operations = package.write(spec, graph, read, weight, options.attention, options.target, path)
    return info.describe_function(entry.role, entry.size, spec, graph, operations)


def compile(home: Path, packages: Mapping[str, Any]) -> None:
    """Writes on a Mac, beside each package, the compiled model that an app loads."""
    for name in packages:
        path = home / f"{name}.mlpackage"
        command = ["xcrun", "coremlcompiler", "compile", str(path), str(path.parent)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            raise Failure(f"{' '.join(command[:3])} of {name} failed: {process.stderr.strip().splitlines()[-1:]}")
