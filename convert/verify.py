"""Checks that a model folder is as it was written: hashes, shapes, configs, tokenizers."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mlx_sd.checkpoint.model import DTYPES
from mlx_sd.checkpoint.model_folder import (
    AGAIN,
    CONTROL,
    build,
    missing_network,
    network_tensors,
    read_model_json,
    shapes,
)
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.files import TENSOR_DTYPES, sha256
from mlx_sd.core.terminal import progress
from mlx_sd.networks import quantization
from mlx_sd.prompts.tokenizer import Tokenizer
from mlx_sd.sampling.scheduler import Scheduler

from .files import folder_kinds
from .files.refusals import first

_LIMIT = 4  # problems in one message
_FIELDS = {"source": dict, "pipeline": dict, "networks": dict, "scheduler": dict, "tokenizers": list, "files": dict}


def verify(folder: Path) -> str:
    """Checks a model folder and returns one line about its contents.

    Raises InputError where it is no model folder, and Failure with the first problems of one that is damaged.
    """
    if problem := _no_model_folder(folder):
        raise InputError(f"{folder} {problem}")
    about = read_model_json(folder)
    for name, kind in _FIELDS.items():
        if not isinstance(about.get(name), kind):
            raise Failure(f"{folder}/model.json: {name} is missing or damaged; convert the checkpoint again")
    problems = [*_networks(folder, about), *_scheduler_and_tokenizers(folder, about)]
    unreadable = {part for part in about["networks"] for line in problems if line.startswith(f"{folder / part}.")}
    changed = [line for line in _hashes(folder, about["files"]) if line.partition(".safetensors ")[0] not in unreadable]
    problems = [*(line.removesuffix(AGAIN) for line in problems), *changed]  # each file once
    if problems:
        raise Failure(f"{folder} is damaged: {first(problems, _LIMIT, '; ')}; convert the checkpoint again")
    size = sum((folder / f"{part}.safetensors").stat().st_size for part in about["networks"])
    hashes = f"{len(about['files'])} files as written" if about["files"] else "but written before files were hashed"
    return f"{folder}: OK, {len(about['networks'])} networks, {size / 1e9:.3g} GB, {hashes}"


def _no_model_folder(folder: Path) -> str | None:
    """Returns the end of the error for what is no converted folder."""
    if (folder / "model.json").is_file():
        return None
    if not folder.exists():
        return "does not exist; --verify checks a folder that python -m convert wrote"
    if folder.is_file():
        return "is a file; --verify checks a folder that python -m convert wrote, --inspect describes a file"
    if (folder / "model_index.json").is_file():
        return "is a diffusers folder, which --verify does not check; convert it first (--model and --out)"
    return f"{folder_kinds.sentence(folder)} (--verify checks a folder that python -m convert wrote)"


def _networks(folder: Path, about: dict[str, Any]) -> Iterator[str]:
    dtype = str(about.get("dtype"))
    stored = {n for n, (_, kind) in TENSOR_DTYPES.items() if dtype not in DTYPES or kind == DTYPES[dtype]}
    quantized = quantization.from_record(about.get("quantization"), "model.json")
    for part, config in about["networks"].items():
        file = folder / f"{part}.safetensors"
        try:
            network = build(part, config, f"model.json: {part}")
            if part in quantized:
                quantization.replace_layers(network, quantized[part])
            expected = shapes(network)
            present = network_tensors(folder, part, about["version"])
        except InputError as error:
            yield str(error)
            continue
        shape_of = {name: tensor.shape for name, tensor in present.items()}
        if misfits := sorted(n for n in expected.keys() | shape_of if shape_of.get(n) != expected.get(n)):
            yield f"{file.name} does not fit model.json ({first(misfits, _LIMIT)})"
        elif other := {t.dtype for t in present.values()} - stored - ({"U32"} if part in quantized else set()):
            yield f"{file.name} holds {', '.join(sorted(other))}, model.json says {dtype}"


def _scheduler_and_tokenizers(folder: Path, about: dict[str, Any]) -> Iterator[str]:
    if CONTROL in about["networks"]:
        return  # a ControlNet alone
    checks: list[Callable[[], Any]] = [partial(Scheduler.from_hf, about["scheduler"], "model.json: scheduler")]
    checks += [partial(Tokenizer.load, folder / str(name)) for name in about["tokenizers"]]
    for check in checks:
        try:
            check()
        except InputError as error:
            yield str(error)
    if part := missing_network(about["networks"], about["pipeline"]):
        yield f"model.json lists no {part}"


def _hashes(folder: Path, files: dict[str, str]) -> Iterator[str]:
    inside = {name: folder / name for name in files if not Path(name).is_absolute() and ".." not in Path(name).parts}
    yield from (f"model.json names {name!r}, which is not in the folder" for name in files.keys() - inside.keys())
    sizes = [path.stat().st_size for path in inside.values() if path.is_file()]
    with progress(sum(sizes), "verify") as advance:
        for name, path in inside.items():
            if not path.is_file():
                yield f"{name} is missing"
            elif sha256(path, advance) != files[name]:
                yield f"{name} is not the file that was written"
