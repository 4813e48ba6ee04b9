"""Writing that outlives a crash of the machine: numbers and names of files are flushed to the disk."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...core.errors import Failure
from ...core.files import atomic_file

_TEMPORARY = re.compile(r"\..+\.(\w{8}|part)")  # of `atomic_file`, and of checkpoints


def flush(handle: int) -> None:
    """Waits until the disk itself has what was written to a file, given by its descriptor."""
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone leaves it in the disk's own cache
    if full is not None:
        with suppress(OSError):  # a file system of the network, which has only the other
            fcntl.fcntl(handle, full)
            return
    os.fsync(handle)


def flush_folder(folder: Path) -> None:
    """Waits until the disk has the names in a folder, so that a renaming is not lost."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, data: bytes) -> None:
    """Writes a file, all or nothing, and waits until the disk has it; OSError where that fails."""
    with atomic_file(path) as f:
        f.write(data)
        f.flush()
        flush(f.fileno())
    flush_folder(path.parent)


def is_temporary(name: str) -> bool:
    """Returns whether a name is that of a file or folder that is still being written."""
    return _TEMPORARY.fullmatch(name) is not None


def sweep(folder: Path) -> None:
    """Removes the temporary files and folders that a killed process has left in a folder.

    Only who holds the lock of the run may call this: the temporary files of a living process look the same.
    """
    for path in folder.glob(".*"):
        if not is_temporary(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def one_line(path: Path, advice: str) -> Iterator[None]:
    """Raises Failure, one line that ends with `advice`, where the system refuses to write in the block."""
    try:
        yield
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror or error}; {advice}") from None
