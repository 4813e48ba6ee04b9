"""Writing a model folder: every tensor renamed, channel-last, cast; one at a time; all or nothing."""

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

from mlx_sd.checkpoint.model_folder import FORMAT, VERSION, build, shapes
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import TENSOR_DTYPES, Tensor
from mlx_sd.networks import quantization
from mlx_sd.networks.classes import Classes
from mlx_sd.prompts.tokenizer import SPECIAL, Tokenizer

from ..adapters.merge import OpenAdapter, plan_merge
from ..files import diffusers_names
from ..files.safetensors_stream import Entry, atomic_folder, progress, sha256, write_tensors
from ..sources.checkpoint import Checkpoint, Component, Vocabulary
from .quantized_entries import quantized


def write_model_folder(
    checkpoint: Checkpoint,
    out: Path,
    source: dict[str, Any],
    dtype: mx.Dtype | None = None,
    adapters: Sequence[OpenAdapter] = (),
    quantize: str | None = None,
) -> list[str]:
    """Writes the model folder `out`, which must not exist, from a checkpoint; returns remarks on what was done.

    dtype: of the weights; None keeps each tensor's own. `source` is recorded in model.json as it is. `adapters` are
    merged in float32 before that, and what `quantize` names ("4", "unet=4,text_encoder=8:32") is quantized after it.
    Everything is checked before the first byte is written, and `out` appears only when it is complete.
    """
    built = {
        part: build(part, component.config, f"{checkpoint.path / part}/config.json")
        for part, component in checkpoint.components.items()
    }
    configs: dict[str, Any] = {part: network.config for part, network in built.items()}
    where = f"{checkpoint.path}/model_index.json"
    Classes.of(configs["unet"], configs.get("class_embedder"), checkpoint.index, where)  # says what is wrong with it
    merge = plan_merge(adapters, built)
    how = quantization.parse_for(built, quantize)
    networks = {}
    for part, component in checkpoint.components.items():
        placed = plan(part, component, checkpoint.path / part)
        networks[part] = [_entry(*one, dtype, partial(merge, part, one[0])) for one in placed]
        if part in how:
            networks[part] = list(quantized(networks[part], built[part], how[part]))
    for vocabulary in checkpoint.tokenizers.values():
        Tokenizer.load(vocabulary.folder)  # says what is wrong with it
    total = sum(entry.size for entries in networks.values() for entry in entries)
    with atomic_folder(out, total) as folder, _digests(checkpoint) as digests, progress(total, "convert") as moved:
        files = {
            f"{part}.safetensors": write_tensors(folder / f"{part}.safetensors", entries, moved)
            for part, entries in networks.items()
        }
        for name, vocabulary in checkpoint.tokenizers.items():
            copied = write_tokenizer(vocabulary, folder / name)
            files |= {f"{name}/{file.name}": sha256(file) for file in copied}
        about = {
            "format": FORMAT,
            "version": VERSION,
            "source": checkpoint.provenance | source | {"sha256": digests()},
            "dtype": "as stored" if dtype is None else str(dtype).rpartition(".")[2],
            "quantization": {part: one._asdict() for part, one in how.items()} or None,
            "loras": merge.records,
            "pipeline": {k: v for k, v in checkpoint.index.items() if not isinstance(v, list)},
            "networks": {part: component.config for part, component in checkpoint.components.items()},
            "tokenizers": sorted(checkpoint.tokenizers),
            "scheduler": checkpoint.scheduler,
            "files": files,
        }
        if checkpoint.low_res_scheduler:
            about["low_res_scheduler"] = checkpoint.low_res_scheduler
        (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return [quantization.describe(part, built[part], one, _number(networks[part])) for part, one in how.items()]


def write_tokenizer(vocabulary: Vocabulary, out: Path) -> list[Path]:
    """Writes a tokenizer's folder and returns its files."""
    out.mkdir()
    own = sorted(p for p in vocabulary.folder.iterdir() if p.suffix in (".json", ".txt") and p.is_file())
    if vocabulary.pad is not None:
        own = [p for p in own if p.name in ("vocab.json", "merges.txt")] or [vocabulary.folder / "tokenizer.json"]
    for file in own:
        shutil.copyfile(file, out / file.name)
    if vocabulary.pad is not None:
        config = {**SPECIAL, "pad_token": vocabulary.pad, "unk_token": SPECIAL["eos_token"], "model_max_length": 77}
        config["tokenizer_class"] = "CLIPTokenizer"
        (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return sorted(out.iterdir())


def plan(part: str, component: Component, where: Path) -> list[tuple[str, Tensor, tuple[int, ...]]]:
    """Which tensor becomes which of our parameters, and its shape there; checked strictly both ways.

    InputError lists what the config wants and the file lacks, what the file has and the config does not know, and
    what has another shape.
    """
    network = build(part, component.config, f"{where}/config.json")
    wanted = {
        diffusers_names.diffusers_name(part, network.names, parameter): (parameter, shape)
        for parameter, shape in shapes(network).items()
    }
    have = component.tensors
    wrong = [
        f"{name} is {have[name].shape} in the file, {shape} by the config"
        for name, (_, shape) in wanted.items()
        if name in have and not _fits(have[name].shape, shape)
    ]
    found = [
        _listing("missing", sorted(wanted.keys() - have.keys())),
        _listing("unexpected", sorted(have.keys() - wanted.keys())),
        _listing("of another shape", wrong),
    ]
    if any(found):
        raise InputError(f"{where}: config and weights disagree: {'; '.join(f for f in found if f)}")
    return [(ours, have[name], shape) for name, (ours, shape) in wanted.items()]


def _fits(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(stored) == 3 and stored[-1] == 1:  # a convolution over the pixels in a row, which is a linear layer
        stored = stored[:2]
    if len(stored) == 4:
        o, i, h, w = stored
        stored = (o, i) if len(wanted) == 2 and h == w == 1 else (o, h, w, i)
    return stored == wanted


def _entry(
    ours: str, tensor: Tensor, shape: tuple[int, ...], dtype: mx.Dtype | None, merge: Callable[[mx.array], mx.array]
) -> Entry:
    def read() -> mx.array:
        array = tensor.read()
        return merge((array.transpose(0, 2, 3, 1) if array.ndim == 4 else array).reshape(shape))

    return Entry(ours, shape, dtype or TENSOR_DTYPES[tensor.dtype][1], read)


def _number(entries: list[Entry]) -> int:
    """Bytes of a number that is not quantized."""
    return max(entry.dtype.size for entry in entries if entry.dtype != mx.uint32)


@contextmanager
def _digests(checkpoint: Checkpoint) -> Iterator[Callable[[], dict[str, str]]]:
    """SHA-256 of every file that weights come from, computed beside what is done meanwhile; called, it waits.

    By the file's name in the checkpoint, or by its whole path where it lies elsewhere.
    """
    home = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    files = sorted({file for component in checkpoint.components.values() for file in component.files})
    ended = threading.Event()

    def check(size: int) -> None:
        if ended.is_set():  # with the conversion, by an error
            raise CancelledError

    def digests() -> dict[str, str]:
        return {str(f.relative_to(home) if f.is_relative_to(home) else f): sha256(f, check) for f in files}

    with ThreadPoolExecutor(1) as beside:
        found = beside.submit(digests)
        try:
            yield found.result
        finally:
            ended.set()


def _listing(what: str, names: list[str], most: int = 8) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what} ({', '.join(names[:most])}{more})"
