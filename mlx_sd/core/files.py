"""Reading JSON and safetensors files that may be damaged or hostile, hashing files, and writing them atomically."""

import fcntl
import hashlib
import json
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open

from . import file_formats, terminal
from .errors import Failure, InputError

TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}")  # names of the files that `atomic_file` writes first
_BLOCK = 1 << 22  # bytes that are hashed at a time

# dtype in safetensors -> the NumPy type that reads its bytes, and the MLX dtype that those bytes mean
TENSOR_DTYPES: dict[str, tuple[type, mx.Dtype]] = {
    "F32": (np.float32, mx.float32),
    "F16": (np.float16, mx.float16),
    "BF16": (np.uint16, mx.bfloat16),
}


class Tensor(NamedTuple):
    """A tensor in a file: its name, shape and place. Its numbers are read by `read` only."""

    file: Path
    name: str
    dtype: str  # as safetensors writes it: "F32", "F16", ...
    shape: tuple[int, ...]
    start: int  # byte of the file at which the numbers begin
    end: int  # byte before which they end
    transposed: bool = False  # the file holds the transposed matrix
    piece: tuple[int, int, int] | None = None  # (runs, i, n): rows in `runs` equal runs, of each the i-th of n pieces

    def read(self) -> mx.array:
        """Copies the numbers from the file into an array of `shape`."""
        stored, dtype = TENSOR_DTYPES[self.dtype]
        count = (self.end - self.start) // np.dtype(stored).itemsize
        flat: Any = np.frombuffer(self._bytes(), stored, count)
        if self.piece:
            runs, i, pieces = self.piece
            flat = flat.reshape(runs, pieces, -1)[:, i].ravel()
        array = mx.array(np.asarray(flat)).view(dtype)
        return array.reshape(self.shape[::-1]).T if self.transposed else array.reshape(self.shape)

    def _bytes(self) -> memoryview:
        """The numbers as they lie in the file, mapped: what numpy.memmap does, at a fifth of its time."""
        if self.start == self.end:
            return memoryview(b"")
        page = self.start - self.start % mmap.ALLOCATIONGRANULARITY
        with self.file.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), self.end - page, access=mmap.ACCESS_READ, offset=page)
        return memoryview(mapped)[self.start - page :]

    def rows(self, first: int, last: int) -> "Tensor":
        """Returns the tensor of the rows from `first` to before `last`; nothing is read."""
        size = (self.end - self.start) // max(self.shape[0], 1)
        shape, start = (last - first, *self.shape[1:]), self.start
        return self._replace(shape=shape, start=start + first * size, end=start + last * size)

    def interleaved(self, runs: int, i: int, pieces: int) -> "Tensor":
        """Returns the tensor of the i-th of `pieces` pieces of each of `runs` equal runs of rows; nothing is read."""
        return self._replace(shape=(self.shape[0] // pieces, *self.shape[1:]), piece=(runs, i, pieces))

    def transpose(self) -> "Tensor":
        """Returns the tensor of the transposed matrix; nothing is read."""
        return self._replace(shape=self.shape[::-1], transposed=not self.transposed)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file; InputError where it is missing, damaged or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{path} is not usable JSON: it is nested too deeply") from None
    except ValueError as error:  # wrong bytes, wrong syntax, or a number of thousands of digits
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value


def tensors(file: Path) -> Iterator[Tensor]:
    """Lists the tensors of a safetensors file; InputError where its header is damaged or does not fit its size."""
    header, data = _header(file)
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            yield Tensor(file, name, entry["dtype"], tuple(entry["shape"]), data + start, data + end)


def metadata(file: Path) -> dict[str, str]:
    """Reads the metadata in the header of a safetensors file, checked as by `tensors`; {} where there is none."""
    entries: dict[str, str] = _header(file)[0].get("__metadata__") or {}
    return entries


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The header, and the byte at which the numbers begin."""

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Returns an object of the header; InputError where a name is in it twice."""
        entries: dict[str, Any] = {}
        for name, value in pairs:
            if name in entries:
                raise InputError(f"{file} is damaged: its header has {name!r} twice")
            entries[name] = value
        return entries

    try:
        with safe_open(file, framework="numpy"):  # the library's own checks of header, offsets and size
            pass
        with file.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            return json.loads(f.read(length), object_pairs_hook=without_duplicates), 8 + length
    except FileNotFoundError:
        raise InputError(f"{file} is missing") from None
    except IsADirectoryError:
        raise InputError(f"{file} is a folder, not a safetensors file") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        sentence = file_formats.problem(file) or f"is damaged or incomplete ({error}); download it again"
        raise InputError(f"{file} {sentence}") from None


def sha256(file: Path, advance: Callable[[int], Any] = lambda size: None, start: int = 0) -> str:
    """Returns the SHA-256 of a file's bytes from `start`; `advance` is called with the bytes of each block read."""
    digest = hashlib.sha256()
    with file.open("rb") as f:
        f.seek(start)
        while block := f.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def check_inside(folder: Path, path: Path) -> Path:
    """Returns `path`; InputError where it is a link that leads out of `folder`.

    A link may lead to the blobs beside the snapshots of the hub's cache, which stores files there.
    """
    root, real = folder.resolve(), path.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if not (real.is_relative_to(root) or real.is_relative_to(blobs)):
        raise InputError(f"{path} is a link out of {folder}, to {real}; put the file itself there")
    return path


def missing(path: Path | str) -> InputError:
    """Returns the error for a path where nothing is; of a web address it says what to do with it."""
    if address := re.match(r"(https?):/+(.+)", str(path)):
        return InputError(f"{address[1]}://{address[2]} is a web address; download it and give the name of the file")
    return InputError(f"{path} does not exist")


def is_folder(path: Path) -> bool:
    """Returns whether a path is a folder; False where the system refuses to look, as at names that are too long."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises an error there


def is_file(path: Path) -> bool:
    """Returns whether a path is a file; False where the system refuses to look, as at names that are too long."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises an error there


def check_writable(folder: Path, flag: str, must_exist: bool = False) -> None:
    """Raises InputError, which names `flag`, where no file can be created in a folder.

    must_exist: the folder is not created later; otherwise its nearest existing parent must be writable.
    """
    nearest = (
        folder if must_exist else next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    )
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        advice = "; make the folder first" if must_exist and not os.path.lexists(folder) else ""
        raise InputError(f"{flag} {folder}: cannot be written ({error.strerror}){advice}") from None


@contextmanager
def atomic_file(path: Path, before: Callable[[], None] = lambda: None) -> Iterator[BinaryIO]:
    """Opens a temporary file that becomes `path` when the block ends, and is removed when the block raises.

    before: called when the file is whole, just before it becomes `path`; the file is removed where that raises.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
        temporary.chmod(0o644)  # mkstemp's is private
        before()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Waits until no other process is in such a block about the same path; they then find what this one has written.

    The system ends the turn of a process that dies. Where nothing can be locked, nobody waits.
    """
    handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(path.with_name(f".{path.name}.lock"))
    except OSError:  # the block says that nothing can be written, if that is so
        pass
    try:
        yield
    finally:
        if handle is not None:
            path.with_name(f".{path.name}.lock").unlink(missing_ok=True)  # before others may lock it
            os.close(handle)


def _lock(path: Path) -> int:
    """Opens and locks a file, for which it waits; OSError where that is not possible."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # whoever had it has removed it


@contextmanager
def temporary_folder(out: Path) -> Iterator[Path]:
    """Makes a folder beside `out` and removes it when the block ends, with all that is still in it.

    Temporary folders that killed processes have left beside the same `out` are removed first. Raises InputError where
    no folder can be made.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        folder, lock = _claim(out)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def atomic_folder(out: Path, size: int = 0) -> Iterator[Path]:
    """Makes a folder that becomes `out` when the block ends well and leaves nothing when it does not.

    size: bytes that will be written, for which there must be space. Raises InputError where `out` exists or cannot be
    written, Failure where writing fails half-way.
    """
    if out.exists():
        raise InputError(f"{out} exists; choose another name or remove it first")
    with temporary_folder(out) as folder:
        try:
            free = shutil.disk_usage(folder).free
            if size > free:
                raise Failure(
                    f"{out} takes {terminal.size(size)}, and only {terminal.size(free)} are free there; "
                    "free some space, or choose another folder"
                )
            yield folder
            folder.chmod(0o755)  # mkdtemp's is private
            if out.exists():  # an empty folder would be replaced without a word
                raise InputError(f"{out} exists by now; another conversion was first")
            folder.rename(out)
        except OSError as error:
            if out.exists():
                raise InputError(f"{out} exists by now; another conversion was first") from None
            raise Failure(f"{error.filename or out} failed: {error.strerror}; nothing is left of {out}") from None


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
    """Removes temporary folders of `out` that no living process has locked."""
    temporary = re.compile(rf"\.{re.escape(out.name)}\.\w{{8}}\.part")
    for folder in [p for p in out.parent.iterdir() if temporary.fullmatch(p.name)]:
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def is_there(name: str) -> bool:
    """Returns whether a file or folder has a name; names that no file can have are of none."""
    return os.path.exists(name)  # noqa: PTH110 - Path.exists raises OSError for a name that is too long
