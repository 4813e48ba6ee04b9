"""A model folder -> the packages an app needs, its vocabulary, and info.json that tells how to drive them."""

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from errno import ENOSPC
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np

from mlx_sd import resolve
from mlx_sd.checkpoint import model_folder
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.files import Tensor
from mlx_sd.prompts.tokenizer import bpe

from . import compress, cut, info, package
from .graph import Graph
from .networks import Port, Spec
from .plan import Entry, Item, Options, plan

SUFFIXES = (".mlpackage", ".mlmodelc")
GIGABYTE = 10**9  # what iOS takes of one package's weights

Report = Callable[[str], None]


def export(model: str, out: Path, options: Options, force: bool = False, report: Report = print) -> dict[str, Any]:
    """Writes the packages of what `--model` takes into the folder `out`; returns what its info.json says.

    Everything is checked before the first network is lowered. What is in `out` and has one of our names is replaced
    only with `force`, and only when all is done. report(line) is told of each package.
    """
    folder = resolve.converted(model)
    about = model_folder.read_about(folder)
    if about.get("quantization"):
        raise InputError(f"{model} is quantized; convert it without --quantize, and use --compress here")
    networks = {
        part: model_folder.build(part, config, f"{folder}/model.json: {part}")
        for part, config in about["networks"].items()
        for part, config in about["networks"].items()
    }
    stored = {part: model_folder.network_tensors(folder, part, about["version"]) for part in networks}
    items = plan(networks, options, model)
    names = [name for item in items for name in (item.pieces or (item.name,))]
    _refuse(out, names, force)
    _check_space(out, sum(_bytes(stored[item.part], options) for item in items))
    packages: dict[str, Any] = {}
    with _beside(out) as home:
        for item in items:
            for name, told in _write(item, networks[item.part], stored[item.part], home, options):
                packages[name] = told
                report(info.line(name, told))
        _write_vocabulary(folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder / "tokenizer_2", home)
        told = info.describe(model, about, networks, folder, asdict(options), packages)
        (home / "info.json").write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        if sys.platform == "darwin":
            _compile(home, packages)
    return told


def _write(
    item: Item, network: nn.Module, stored: Mapping[str, Tensor], home: Path, options: Options
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Writes an item's package or pieces; yields the name and what info.json says of each."""
    if len(item.functions) > 1:
        path = home / f"{item.name}.mlpackage"
        with tempfile.TemporaryDirectory(dir=home) as aside:
            parts = {name: Path(aside, f"{name}.mlpackage") for name in item.functions}
            told = {
                name: _save(entry, entry.spec, package.record(entry.spec, network), stored, parts[name], options)
                for name, entry in item.functions.items()
            }
            package.join(parts, path)
        yield item.name, _seal(path, told, options)
        return
    (entry,) = item.functions.values()
    graph = package.record(entry.spec, network)
    weight = _bytes(stored, options, set(graph.parameters.values()))
    pieces = item.pieces or (item.name,)
    if options.split and not item.pieces and weight > GIGABYTE:
        pieces = tuple(f"{item.name}Part{i + 1}" for i in range(2 ** math.ceil(math.log2(weight / GIGABYTE))))
    for i, (spec, part) in enumerate(_cut(entry.spec, graph, pieces)):
        path = home / f"{pieces[i]}.mlpackage"
        told = {"main": _save(entry, spec, part, stored, path, options)}
        yield pieces[i], _seal(path, told, options, (i + 1, len(pieces)))


def _seal(path: Path, told: dict[str, Any], options: Options, piece: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """Writes into the package what it is, for `verify`; returns what info.json says of it."""
    for function in told.values():
        function["piece"] = list(piece)
    functions = {name: {"role": f["role"], "size": f["size"]} for name, f in told.items()}
    package.tell(path, {"functions": functions, "branch": options.branch, "piece": piece, "compress": options.compress})
    return {"bytes": package.size(path), "functions": told}


def _cut(spec: Spec, graph: Graph, names: tuple[str, ...]) -> list[tuple[Spec, Graph]]:
    """The function in as many pieces as there are names, a power of two."""
    if len(names) < 2:
        return [(spec, graph)]
    middle = len(names) // 2
    first, second = cut.halves(spec, graph)
    return _cut(*first, names[:middle]) + _cut(*second, names[middle:])


def _save(
    entry: Entry, spec: Spec, graph: Graph, stored: Mapping[str, Tensor], path: Path, options: Options
) -> dict[str, Any]:
    """Lowers and writes one function; returns what info.json says of it."""

    def read(name: str) -> np.ndarray:
        return np.array(stored[name].read().astype(spec.weights))

    weight = compress.choose(options.compress, options.target)
    operations = package.write(spec, graph, read, weight, options.attention, options.target, path)
    return {
        "role": entry.role,
        "size": entry.size,
        "about": spec.about,
        "inputs": {port.name: _describe(port) for port in spec.inputs},
        "outputs": {port.name: _describe(port) for port in spec.outputs},
        "macs": graph.macs(),
        "operations": operations,
    }


def _describe(port: Port) -> dict[str, Any]:
    return {"shape": list(port.stored), "dtype": str(port.dtype).rpartition(".")[2]}


def _bytes(stored: Mapping[str, Tensor], options: Options, only: set[str] | None = None) -> int:
    """Of a part's weights in a package, about."""
    numbers = sum(math.prod(tensor.shape) for name, tensor in stored.items() if only is None or name in only)
    return numbers * BITS.get(options.compress or options.dtype, 16) // 8


BITS = {"float32": 32, "float16": 16, "int8": 8, "palettize4": 4, "palettize6": 6, "palettize8": 8}


def _write_vocabulary(tokenizer: Path, home: Path) -> None:
    vocabulary, merges = bpe(tokenizer)
    (home / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (home / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _compile(home: Path, packages: Mapping[str, Any]) -> None:
    """On a Mac: what an app loads, beside each package."""
    for name in packages:
        command = ["xcrun", "coremlcompiler", "compile", str(home / f"{name}.mlpackage"), str(home)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"{' '.join(command[:3])} of {name} failed: {done.stderr.strip().splitlines()[-1:]}")


def _refuse(out: Path, packages: list[str], force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder")
    names = [f"{name}{piece}{suffix}" for name in packages for piece in ("", "Part1") for suffix in SUFFIXES]
    there = [name for name in (*names, "vocab.json", "merges.txt", "info.json") if (out / name).exists()]
    if there and not force:
        raise InputError(f"{out} has {', '.join(there[:3])} already; --force replaces what has the names of an export")


def _check_space(out: Path, wanted: int) -> None:
    home = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(home).free
    if 2 * wanted > free:  # coremltools writes each package once more on its way
        raise InputError(f"{home} has {free / 1e9:.1f} GB free; this takes about {2 * wanted / 1e9:.1f} GB on the way")


def _packages_before(out: Path) -> list[str]:
    """What an export before this one has written: beside a new one it would mislead an app."""
    if not (out / "info.json").is_file():
        return []
    return [f"{name}{suffix}" for name in info.read(out)["packages"] for suffix in SUFFIXES]


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder beside `out`, whose entries move into `out` when the block ends well, and vanish when it does not."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from None
    try:
        yield home
        out.mkdir(exist_ok=True)
        for name in _packages_before(out):
            shutil.rmtree(out / name, ignore_errors=True)
        for path in sorted(home.iterdir()):
            old = out / path.name
            if old.is_dir():
                shutil.rmtree(old)
            path.replace(old)
    except OSError as error:
        if error.errno == ENOSPC:
            raise Failure(f"{out}: no space is left; nothing was written") from None
        raise
    finally:
        shutil.rmtree(home, ignore_errors=True)
