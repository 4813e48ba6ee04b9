"""Writes a model folder: every tensor renamed, channel-last and cast, one at a time; complete or not at all."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_sd.checkpoint.model_folder import DIFFERENCES, FORMAT, VERSION, build, shapes
from mlx_sd.checkpoint.token_diffusion import TokenDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import TENSOR_DTYPES, Tensor, atomic_folder, sha256
from mlx_sd.core.terminal import progress
from mlx_sd.networks import quantization
from mlx_sd.networks.classes import Classes
from mlx_sd.networks.family import Family
from mlx_sd.prompts.tokenizer import SPECIAL, Tokenizer

from ..adapters.merge import OpenAdapter, plan_merge
from ..files.diffusers_names import diffusers_name
from ..files.refusals import first
from ..files.safetensors_stream import Entry, write_tensors
from ..sources.checkpoint import Checkpoint, Component, Difference, Vocabulary
from .quantized_entries import quantized

Shape = tuple[int, ...]


def write_model_folder(
    checkpoint: Checkpoint,
    out: Path,
    source: dict[str, Any],
    dtype: mx.Dtype | None = None,
    adapters: Sequence[OpenAdapter] = (),
    quantize: str | None = None,
    lora_strict: bool = False,
) -> list[str]:
    """Writes the model folder `out`, which must not exist, from a checkpoint; returns one line per quantized network.

    source: recorded in model.json as it is. dtype: of the weights; None keeps each tensor's own. adapters: merged in
    float32 before the cast. quantize: "4" or "unet=4,text_encoder=8:32", done after merging. lora_strict: as of
    `plan_merge`. Everything is checked
    before the first byte is written, and `out` appears only when it is complete.
    """
    built = {
        part: build(part, component.config, f"{checkpoint.path / part}/config.json")
        for part, component in checkpoint.components.items()
    }
    configs: dict[str, Any] = {part: network.config for part, network in built.items()}
    where = f"{checkpoint.path}/model_index.json"
    tokens = TokenDiffusion.of(built, checkpoint.scheduler, str(checkpoint.path))  # raises what is wrong
    if tokens and adapters:
        raise InputError(f"{checkpoint.path} is {Family.TOKENS.value}, which no LoRA is for; leave --lora out")
    if "unet" in configs:
        Classes.of(configs["unet"], configs.get("class_embedder"), checkpoint.index, where)  # raises what is wrong
    merge = plan_merge(adapters, built, lora_strict)
    quantizations = quantization.parse_for(built, quantize)
    networks, differences = {}, []
    for part, component in checkpoint.components.items():
        sources = plan(part, component, checkpoint.path / part)
        differences += [parameter for parameter, tensor, _ in sources if isinstance(tensor, Difference)]
        networks[part] = [
            entry(parameter, tensor, shape, dtype, partial(merge, part, parameter))
            for parameter, tensor, shape in sources
        ]
        if part in quantizations:
            networks[part] = list(quantized(networks[part], built[part], quantizations[part]))
    for vocabulary in checkpoint.tokenizers.values():
        Tokenizer.load(vocabulary.folder)  # raises what is wrong with it
    total = sum(entry.size for entries in networks.values() for entry in entries)
    with atomic_folder(out, total) as folder, _digests(checkpoint) as digests, progress(total, "convert") as advance:
        files = {
            f"{part}.safetensors": write_tensors(folder / f"{part}.safetensors", entries, advance)
            for part, entries in networks.items()
        }
        for name, vocabulary in checkpoint.tokenizers.items():
            copies = write_tokenizer(vocabulary, folder / name)
            files |= {f"{name}/{file.name}": sha256(file) for file in copies}
        about = {
            "format": FORMAT,
            "version": VERSION,
            "source": checkpoint.provenance | source | {"sha256": digests()},
            "dtype": "as stored" if dtype is None else str(dtype).rpartition(".")[2],
            "quantization": {part: settings._asdict() for part, settings in quantizations.items()} or None,
            "loras": merge.records,
            "pipeline": {k: v for k, v in checkpoint.index.items() if not isinstance(v, list)},
            "networks": {part: component.config for part, component in checkpoint.components.items()},
            "tokenizers": sorted(checkpoint.tokenizers),
            "scheduler": checkpoint.scheduler,
            "files": files,
        }
        if differences:
            about[DIFFERENCES] = differences
        if checkpoint.low_res_scheduler:
            about["low_res_scheduler"] = checkpoint.low_res_scheduler
        (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return [
        quantization.describe(part, built[part], settings, _bytes_per_number(networks[part]))
        for part, settings in quantizations.items()
    ]


def write_tokenizer(vocabulary: Vocabulary, out: Path) -> list[Path]:
    """Writes a tokenizer's folder and returns its files."""
    out.mkdir()
    files = sorted(p for p in vocabulary.folder.iterdir() if p.suffix in (".json", ".txt") and p.is_file())
    if vocabulary.pad is not None:
        files = [p for p in files if p.name in ("vocab.json", "merges.txt")] or [vocabulary.folder / "tokenizer.json"]
    for file in files:
        shutil.copyfile(file, out / file.name)
    if vocabulary.pad is not None:
        config = {**SPECIAL, "pad_token": vocabulary.pad, "unk_token": SPECIAL["eos_token"], "model_max_length": 77}
        config["tokenizer_class"] = "CLIPTokenizer"
        (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return sorted(out.iterdir())


def plan(part: str, component: Component, where: Path) -> list[tuple[str, Tensor, Shape]]:
    """Returns our parameters, each with the tensor it is read from and its shape; checked strictly both ways.

    Raises InputError that lists the parameters that the file lacks, the tensors that the config does not have, and
    those of another shape.
    """
    network = build(part, component.config, f"{where}/config.json")
    expected = {
        diffusers_name(part, network.names, parameter): (parameter, shape)
        for parameter, shape in shapes(network).items()
    }
    stored = component.tensors
    misfits = [
        f"{name} is {stored[name].shape} in the file, {shape} by the config"
        for name, (_, shape) in expected.items()
        if name in stored and not _fits(stored[name].shape, shape)
    ]
    problems = {
        "missing": sorted(expected.keys() - stored.keys()),
        "unexpected": sorted(stored.keys() - expected.keys()),
        "of another shape": misfits,
    }
    lists = [f"{len(names)} {problem} ({first(names, 8)})" for problem, names in problems.items() if names]
    if lists:
        raise InputError(f"{where}: config and weights disagree: {'; '.join(lists)}")
    return [(parameter, stored[name], shape) for name, (parameter, shape) in expected.items()]


def _fits(stored: Shape, expected: Shape) -> bool:
    if len(stored) == 3 and stored[-1] == 1:  # a convolution over the pixels in a row, which is a linear layer
        stored = stored[:2]
    if len(stored) == 4:
        o, i, h, w = stored
        stored = (o, i) if len(expected) == 2 and h == w == 1 else (o, h, w, i)
    return stored == expected


def entry(
    parameter: str,
    tensor: Tensor,
    shape: Shape,
    dtype: mx.Dtype | None = None,
    change: Callable[[mx.array], mx.array] | None = None,
) -> Entry:
    """Returns a parameter of our shape to be written; `change` is applied to it, for merging adapters.

    dtype: in the file; None is the tensor's own.
    """

    def read() -> mx.array:
        """Reads the tensor, channel-last, and changes it."""
        stored = tensor.read()
        array = (stored.transpose(0, 2, 3, 1) if stored.ndim == 4 else stored).reshape(shape)
        return change(array) if change else array

    return Entry(parameter, shape, dtype or TENSOR_DTYPES[tensor.dtype][1], read)


def _bytes_per_number(entries: list[Entry]) -> int:
    """Bytes of a number that is not quantized."""
    return max(entry.dtype.size for entry in entries if entry.dtype != mx.uint32)


@contextmanager
def _digests(checkpoint: Checkpoint) -> Iterator[Callable[[], dict[str, str]]]:
    """Computes the SHA-256 of every file that weights come from, in a thread; yields the function that waits for it.

    The keys are the files' names in the checkpoint, or their full paths where they lie elsewhere.
    """
    home = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    files = sorted({file for component in checkpoint.components.values() for file in component.files})
    ended = threading.Event()

    def check(size: int) -> None:
        """Raises CancelledError once the conversion has ended."""
        if ended.is_set():  # with the conversion, by an error
            raise CancelledError

    def digests() -> dict[str, str]:
        """Computes the SHA-256 of each file."""
        return {str(f.relative_to(home) if f.is_relative_to(home) else f): sha256(f, check) for f in files}

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(digests)
        try:
            yield future.result
        finally:
            ended.set()
