"""The lock of a run's folder: one process trains into it at a time."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import InputError

NAME = "run.lock"
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder while the block runs; InputError names the process that holds it already.

    The system drops the lock when its process ends, however it does. The file stays: who removed it could remove the
    lock of the next process.
    """
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                raise InputError(f"{folder} is in use by {_owner(handle)}; {_ADVICE}") from None
            # Any other error: a file system without locks. Then nobody is kept out.
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


_ADVICE = "stop that training or wait for its end, or choose another folder"


def _owner(handle: int) -> str:
    """The process that holds the lock, as it has written into the file."""
    number = os.pread(handle, 20, 0).decode(errors="replace").strip()
    if not number.isdecimal():  # it has the lock since a moment, and has not written yet
        return "another process"
    return "this process" if int(number) == os.getpid() else f"process {number}"
