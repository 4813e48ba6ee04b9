"""Writes safetensors one tensor at a time, hashed on the way."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_sd.core.files import TENSOR_DTYPES

_STORED = {dtype: name for name, (_, dtype) in TENSOR_DTYPES.items()} | {mx.uint32: "U32"}


class Entry(NamedTuple):
    """A tensor to be written; `read` computes its numbers when it is its turn."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    read: Callable[[], mx.array]

    @property
    def size(self) -> int:
        """The bytes that it takes in the file."""
        return math.prod(self.shape) * self.dtype.size


def write_tensors(path: Path, entries: Sequence[Entry], advance: Callable[[int], Any], format: str = "mlx") -> str:
    """Writes a safetensors file and returns its SHA-256.

    advance: called with the number of bytes of each tensor written. format: as recorded in the file's metadata.
    """
    header: dict[str, Any] = {"__metadata__": {"format": format}}
    offset = 0
    for entry in entries:
        offsets = [offset, offset := offset + entry.size]
        header[entry.name] = {"dtype": _STORED[entry.dtype], "shape": entry.shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as f:

        def append(data: Any) -> None:
            """Writes bytes and adds them to the hash."""
            f.write(data)
            digest.update(data)

        append(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            array = entry.read().reshape(entry.shape).astype(entry.dtype)
            words = mx.uint32 if entry.dtype.size == 4 else mx.uint16  # numpy knows no bfloat16
            append(np.ascontiguousarray(array.view(words)).data)
            advance(entry.size)
    return digest.hexdigest()
