"""Files read with suspicion and written whole."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open

from .errors import InputError

# safetensors dtype -> how numpy reads its bytes, and what MLX then takes them for
TENSOR_DTYPES: dict[str, tuple[type, mx.Dtype]] = {
    "F32": (np.float32, mx.float32),
    "F16": (np.float16, mx.float16),
    "BF16": (np.uint16, mx.bfloat16),
}


class Tensor(NamedTuple):
    """A tensor in a file: where it lies, not its numbers."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def read(self) -> mx.array:
        """The numbers, copied from the file now."""
        stored, dtype = TENSOR_DTYPES[self.dtype]
        count = (self.end - self.start) // np.dtype(stored).itemsize
        flat = np.memmap(self.file, stored, "r", self.start, (count,))
        return mx.array(np.asarray(flat)).view(dtype).reshape(self.shape)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; InputError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value


def tensors(file: Path) -> Iterator[Tensor]:
    """The tensors of a safetensors file, its header checked against its size before anything is read."""
    try:
        with safe_open(file, framework="numpy"):  # the library's own checks of header, offsets and size
            pass
        with file.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(length))
    except FileNotFoundError:
        raise InputError(f"{file} is missing") from None
    except IsADirectoryError:
        raise InputError(f"{file} is a folder, not a safetensors file") from None
    except SafetensorError as error:
        raise InputError(f"{file} is damaged or incomplete ({error}); download it again") from None
    for name, about in header.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            yield Tensor(file, name, about["dtype"], tuple(about["shape"]), 8 + length + start, 8 + length + end)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that becomes `path` when the block ends well and leaves nothing when it does not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
        temporary.chmod(0o644)  # mkstemp's is private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
