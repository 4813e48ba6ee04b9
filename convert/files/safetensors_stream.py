"""Writing safetensors one tensor at a time, hashed on the way, into a folder that is there whole or not at all."""

import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from tqdm import tqdm

from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.files import TENSOR_DTYPES

_STORED = {dtype: name for name, (_, dtype) in TENSOR_DTYPES.items()} | {mx.uint32: "U32"}
_BLOCK = 1 << 22


class Entry(NamedTuple):
    """A tensor to be written: its numbers are made when it is its turn."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    read: Callable[[], mx.array]

    @property
    def size(self) -> int:
        """Bytes written."""
        return math.prod(self.shape) * self.dtype.size


def write_tensors(path: Path, entries: Sequence[Entry], moved: Callable[[int], Any], kind: str = "mlx") -> str:
    """Writes a safetensors file and returns its SHA-256; `moved` hears of bytes written."""
    header: dict[str, Any] = {"__metadata__": {"format": kind}}
    offset = 0
    for entry in entries:
        place = [offset, offset := offset + entry.size]
        header[entry.name] = {"dtype": _STORED[entry.dtype], "shape": entry.shape, "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as f:

        def put(data: Any) -> None:
            f.write(data)
            digest.update(data)

        put(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            array = entry.read().reshape(entry.shape).astype(entry.dtype)
            words = mx.uint32 if entry.dtype.size == 4 else mx.uint16  # numpy knows no bfloat16
            put(np.ascontiguousarray(array.view(words)).data)
            moved(entry.size)
    return digest.hexdigest()


def sha256(file: Path, moved: Callable[[int], Any] = lambda size: None) -> str:
    """Of a file's bytes; `moved` hears of how many have been read."""
    digest = hashlib.sha256()
    with file.open("rb") as f:
        while block := f.read(_BLOCK):
            digest.update(block)
            moved(len(block))
    return digest.hexdigest()


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], Any]]:
    """A bar of bytes on a terminal, nothing elsewhere."""
    with tqdm(total=total, unit="B", unit_scale=True, desc=what, disable=not sys.stderr.isatty()) as bar:
        yield bar.update


@contextmanager
def atomic_folder(out: Path, size: int = 0) -> Iterator[Path]:
    """A new folder beside `out` that becomes `out` when the block ends well, and vanishes when it does not.

    size: bytes that will be written, for which there must be space. What a killed process has left of an earlier try
    is removed first. Raises InputError where nothing can be written, Failure where that shows only half-way.
    """
    if out.exists():
        raise InputError(f"{out} exists; choose another name or remove it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        folder, lock = _claim(out)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from None
    try:
        free = shutil.disk_usage(folder).free
        if size > free:
            raise Failure(f"{out} takes {size / 1e9:.1f} GB, and only {free / 1e9:.1f} GB are free there")
        yield folder
        folder.chmod(0o755)  # mkdtemp's is private
        if out.exists():  # an empty folder would be replaced without a word
            raise InputError(f"{out} exists by now; another conversion was first")
        folder.rename(out)
    except OSError as error:
        if out.exists():
            raise InputError(f"{out} exists by now; another conversion was first") from None
        raise Failure(f"{error.filename or out} failed: {error.strerror}; nothing is left of {out}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _claim(out: Path) -> tuple[Path, int]:
    """A temporary folder and a lock on it, which the system drops when this process ends, however it does."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process swept it before it was locked
            continue
        with suppress(OSError):  # a file system without locks: then nobody sweeps either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder, lock
        os.close(lock)


def _sweep(out: Path) -> None:
    """Removes temporary folders of `out` that no living process holds."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.\w{{8}}\.part")
    for folder in [p for p in out.parent.iterdir() if ours.fullmatch(p.name)]:
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
