"""Writing a model folder: every tensor renamed, channel-last, cast; one at a time; all or nothing."""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from tqdm import tqdm

from mlx_sd.errors import InputError
from mlx_sd.files import TENSOR_DTYPES, Tensor
from mlx_sd.load import FORMAT, VERSION, build, shapes
from mlx_sd.lora import Lora

from . import lora, names
from .checkpoint import Checkpoint, Component

_STORED = {dtype: name for name, (_, dtype) in TENSOR_DTYPES.items()}


def write(
    checkpoint: Checkpoint,
    out: Path,
    source: dict[str, Any],
    dtype: mx.Dtype | None = None,
    loras: Sequence[Lora] = (),
) -> None:
    """Writes the model folder `out`, which must not exist, from a checkpoint.

    dtype: of the weights; None keeps each tensor's own. `source` is recorded in model.json as it is. `loras` are
    merged in float32 before that. Everything is checked before the first byte is written, and `out` appears only when
    it is complete.
    """
    networks = {
        part: plan(part, component, checkpoint.folder / part) for part, component in checkpoint.components.items()
    }
    merge = lora.plan(loras, {part: _built(checkpoint, part) for part in networks} if loras else {})
    total = sum(tensor.end - tensor.start for tensors in networks.values() for _, tensor, _ in tensors)
    with atomic_folder(out) as folder, _progress(total) as moved:
        for part, tensors in networks.items():
            _write_tensors(folder / f"{part}.safetensors", tensors, dtype, partial(merge, part), moved)
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
            "quantization": None,
            "loras": merge.records,
            "pipeline": {k: v for k, v in checkpoint.index.items() if not isinstance(v, list)},
            "networks": {part: component.config for part, component in checkpoint.components.items()},
            "tokenizers": sorted(checkpoint.tokenizers),
            "scheduler": checkpoint.scheduler,
        }
        (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


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


def _built(checkpoint: Checkpoint, part: str) -> nn.Module:
    return build(part, checkpoint.components[part].config, f"{checkpoint.folder / part}/config.json")


def _fits(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(stored) == 4:
        o, i, h, w = stored
        stored = (o, i) if len(wanted) == 2 and h == w == 1 else (o, h, w, i)
    return stored == wanted


def _write_tensors(
    path: Path,
    tensors: list[tuple[str, Tensor, tuple[int, ...]]],
    dtype: mx.Dtype | None,
    merge: Callable[[str, mx.array], mx.array],
    moved: Callable[[int], Any],
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for ours, tensor, shape in tensors:
        kind = dtype or TENSOR_DTYPES[tensor.dtype][1]
        size = int(np.prod(shape)) * kind.size
        header[ours] = {"dtype": _STORED[kind], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for ours, tensor, shape in tensors:
            array = tensor.read()
            kind = dtype or array.dtype
            if array.ndim == 4:
                array = array.transpose(0, 2, 3, 1)
            array = merge(ours, array.reshape(shape)).astype(kind)
            words = mx.uint32 if array.dtype == mx.float32 else mx.uint16  # numpy knows no bfloat16
            f.write(np.ascontiguousarray(array.view(words)).tobytes())
            moved(tensor.end - tensor.start)


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
