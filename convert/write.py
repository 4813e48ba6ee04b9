"""Writing a model folder: every tensor renamed, channel-last, cast; one at a time; all or nothing."""

import hashlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tqdm import tqdm

from mlx_sd import quantization
from mlx_sd.errors import InputError
from mlx_sd.files import TENSOR_DTYPES, Tensor
from mlx_sd.load import FORMAT, VERSION, build, shapes

from . import lora, names
from .checkpoint import Checkpoint, Component
from .quantize import Entry, quantized

_STORED = {dtype: name for name, (_, dtype) in TENSOR_DTYPES.items()} | {mx.uint32: "U32"}


def write(
    checkpoint: Checkpoint,
    out: Path,
    source: dict[str, Any],
    dtype: mx.Dtype | None = None,
    adapters: Sequence[lora.Read] = (),
    quantize: str | None = None,
) -> list[str]:
    """Writes the model folder `out`, which must not exist, from a checkpoint; returns remarks on what was done.

    dtype: of the weights; None keeps each tensor's own. `source` is recorded in model.json as it is. `adapters` are
    merged in float32 before that, and what `quantize` names ("4", "unet=4,text_encoder=8:32") is quantized after it.
    Everything is checked before the first byte is written, and `out` appears only when it is complete.
    """
    built = {
        part: build(part, component.config, f"{checkpoint.folder / part}/config.json")
        for part, component in checkpoint.components.items()
    }
    merge = lora.plan(adapters, built)
    how = quantization.chosen(quantize, built)
    networks = {}
    for part, component in checkpoint.components.items():
        placed = plan(part, component, checkpoint.folder / part)
        networks[part] = [_entry(*one, dtype, partial(merge, part, one[0])) for one in placed]
        if part in how:
            networks[part] = list(quantized(networks[part], built[part], how[part]))
    total = sum(_size(entry) for entries in networks.values() for entry in entries)
    with atomic_folder(out) as folder, _progress(total) as moved:
        for part, entries in networks.items():
            _write_tensors(folder / f"{part}.safetensors", entries, moved)
        for name, path in checkpoint.tokenizers.items():
            (folder / name).mkdir()
            for file in sorted(path.iterdir()):
                if file.suffix in (".json", ".txt"):
                    shutil.copyfile(file, folder / name / file.name)
        about = {
            "format": FORMAT,
            "version": VERSION,
            "source": source | {"sha256": _digests(checkpoint)},
            "dtype": "as stored" if dtype is None else str(dtype).rpartition(".")[2],
            "quantization": {part: one._asdict() for part, one in how.items()} or None,
            "loras": merge.records,
            "pipeline": {k: v for k, v in checkpoint.index.items() if not isinstance(v, list)},
            "networks": {part: component.config for part, component in checkpoint.components.items()},
            "tokenizers": sorted(checkpoint.tokenizers),
            "scheduler": checkpoint.scheduler,
        }
        (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return [quantization.report(part, built[part], one, _number(networks[part])) for part, one in how.items()]


def plan(part: str, component: Component, where: Path) -> list[tuple[str, Tensor, tuple[int, ...]]]:
    """Which tensor becomes which of our parameters, and its shape there; checked strictly both ways.

    InputError lists what the config wants and the file lacks, what the file has and the config does not know, and
    what has another shape.
    """
    network = build(part, component.config, f"{where}/config.json")
    wanted = {
        names.theirs(part, network.names, parameter): (parameter, shape) for parameter, shape in shapes(network).items()
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


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that becomes `out` when the block ends well, and vanishes when it does not."""
    if out.exists():
        raise InputError(f"{out} exists; choose another name or remove it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from None
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's is private
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fits(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
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


def _size(entry: Entry) -> int:
    return math.prod(entry.shape) * entry.dtype.size


def _number(entries: list[Entry]) -> int:
    """Bytes of a number that is not quantized."""
    return max(entry.dtype.size for entry in entries if entry.dtype != mx.uint32)


def _write_tensors(path: Path, entries: list[Entry], moved: Callable[[int], Any]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for entry in entries:
        place = [offset, offset := offset + _size(entry)]
        header[entry.name] = {"dtype": _STORED[entry.dtype], "shape": entry.shape, "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            array = entry.read().astype(entry.dtype)
            words = mx.uint32 if array.dtype.size == 4 else mx.uint16  # numpy knows no bfloat16
            f.write(np.ascontiguousarray(array.view(words)).tobytes())
            moved(_size(entry))


def _digests(checkpoint: Checkpoint) -> dict[str, str]:
    found = {}
    for component in checkpoint.components.values():
        for file in component.files:
            digest = hashlib.sha256()
            with file.open("rb") as f:
                while block := f.read(1 << 22):
                    digest.update(block)
            found[str(file.relative_to(checkpoint.folder))] = digest.hexdigest()
    return found


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], Any]]:
    with tqdm(total=total, unit="B", unit_scale=True, desc="convert", disable=not sys.stderr.isatty()) as bar:
        yield bar.update


def _listing(what: str, names: list[str], most: int = 8) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what} ({', '.join(names[:most])}{more})"
