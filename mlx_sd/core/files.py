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
    transposed: bool = False  # the file holds a matrix the other way round
    piece: tuple[int, int, int] | None = None  # (runs, i, n): of each of so many runs of rows the i-th of n pieces

    def read(self) -> mx.array:
        """The numbers, copied from the file now."""
        stored, dtype = TENSOR_DTYPES[self.dtype]
        count = (self.end - self.start) // np.dtype(stored).itemsize
        flat: Any = np.memmap(self.file, stored, "r", self.start, (count,))
        if self.piece:
            runs, i, pieces = self.piece
            flat = flat.reshape(runs, pieces, -1)[:, i].ravel()
        array = mx.array(np.asarray(flat)).view(dtype)
        return array.reshape(self.shape[::-1]).T if self.transposed else array.reshape(self.shape)

    def rows(self, first: int, last: int) -> "Tensor":
        """The rows from `first` to before `last`, as unread as the whole."""
        size = (self.end - self.start) // max(self.shape[0], 1)
        shape, start = (last - first, *self.shape[1:]), self.start
        return self._replace(shape=shape, start=start + first * size, end=start + last * size)

    def interleaved(self, runs: int, i: int, pieces: int) -> "Tensor":
        """Of each of so many equal runs of rows the i-th of so many pieces, as unread as the whole."""
        return self._replace(shape=(self.shape[0] // pieces, *self.shape[1:]), piece=(runs, i, pieces))

    def transpose(self) -> "Tensor":
        """The transposed matrix, as unread as this one."""
        return self._replace(shape=self.shape[::-1], transposed=not self.transposed)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; InputError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{path} is not JSON that anyone wrote: it is nested too deeply") from None
    except ValueError as error:  # of the bytes, the syntax, or a number thousands of digits long
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value


def tensors(file: Path) -> Iterator[Tensor]:
    """The tensors of a safetensors file, its header checked against its size before anything is read."""
    header, data = _header(file)
    for name, about in header.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            yield Tensor(file, name, about["dtype"], tuple(about["shape"]), data + start, data + end)


def metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors; checked as by `tensors`."""
    about: dict[str, str] = _header(file)[0].get("__metadata__") or {}
    return about


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the numbers begin."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(name for i, (name, _) in enumerate(pairs) if any(name == other for other, _ in pairs[:i]))
            raise InputError(f"{file} is damaged: its header has {twice!r} twice")
        return found

    try:
        with safe_open(file, framework="numpy"):  # the library's own checks of header, offsets and size
            pass
        with file.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            return json.loads(f.read(length), object_pairs_hook=once), 8 + length
    except FileNotFoundError:
        raise InputError(f"{file} is missing") from None
    except IsADirectoryError:
        raise InputError(f"{file} is a folder, not a safetensors file") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise InputError(f"{file} is damaged or incomplete ({error}); download it again") from None


def own(folder: Path, path: Path) -> Path:
    """`path`, known to lead to no place outside `folder`, or InputError.

    A link is followed where it stays inside, or leads into the blobs beside the snapshots that the hub's cache keeps.
    """
    root, real = folder.resolve(), path.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if not (real.is_relative_to(root) or real.is_relative_to(blobs)):
        raise InputError(f"{path} is a link out of {folder}, to {real}; put the file itself there")
    return path


def writable(folder: Path, flag: str, there: bool = False) -> None:
    """Checks that files can be made in a folder, which must be `there` or can be made; InputError names `flag`."""
    nearest = folder if there else next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"{flag} {folder}: cannot be written ({error.strerror})") from None


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
