"""Pictures to make: a request and a target each, with the state of the target, and claims that processes share.

The command line, and whatever else makes many pictures, uses the same states: run again, only what is missing or broken
is made. Several processes may work on one list, also in a folder that several machines share.
"""

import fcntl
import os
import stat as modes
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from . import metadata
from .core.errors import Failure, InputError
from .core.files import TEMPORARY
from .request import MODEL, Request


class State(Enum):
    """The state of a job's target."""

    MISSING = "missing"  # there is no file, or an empty one
    BROKEN = "broken"  # the file says that it is the job's picture, but its pixels are damaged
    CLAIMED = "claimed"  # another process is making it
    DONE = "done"  # the job's picture is there
    OTHER = "other"  # the file is another picture, or none of ours


@dataclass(frozen=True)
class Job:
    """One picture to make: a request with a seed and the path that its picture is written to."""

    request: Request
    target: Path


def state(job: Job) -> State:
    """Returns the state of a job, whose request must be completed; reads the whole picture where there is one."""
    try:
        status = job.target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return State.CLAIMED if is_claimed(job.target) else State.MISSING
    except OSError as error:
        raise InputError(f"{job.target}: {error.strerror}") from None
    if not modes.S_ISREG(status.st_mode):
        return State.OTHER
    if not status.st_size:
        return State.MISSING
    request = recorded(job.target)
    if request is None or not same_picture(request, job.request):
        return State.OTHER
    return State.DONE if metadata.is_whole(job.target) else State.BROKEN


def recorded(path: Path) -> Request | None:
    """Returns the request that a picture records; None where it records none, or one of another version."""
    try:
        return Request.from_json(metadata.without_facts(metadata.read(path)), str(path))
    except InputError:
        return None


def same_picture(first: Request, second: Request) -> bool:
    """Returns whether two completed requests make the same picture: files count by their hashes, not by their names."""
    return without_names(first) == without_names(second)


def without_names(request: Request) -> Request:
    """Returns a completed request in which files have hashes alone, as far as these are known."""
    names = {
        "model": request.model_hash,
        "init_image": request.init_image_hash,
        "mask": request.mask_hash,
        "refiner": request.refiner_hash,
        "vae": request.vae_hash,
        "hires_mode": request.hires_hash,
    }
    unnamed = {name: MODEL if name == "model" else None for name, digest in names.items() if digest is not None}
    embeddings = tuple(e if e.sha256 is None else e._replace(path=MODEL) for e in request.embeddings)
    loras = tuple(lora if lora.sha256 is None else lora._replace(path=MODEL) for lora in request.loras)
    beside = {
        field: tuple(entry.without_names(MODEL) for entry in getattr(request, field))
        for field in ("controls", "adapters", "ip_adapters")
    }
    files = {"loras": loras, "embeddings": embeddings, "lora_hashes": None, "checkpoint_hash": None}
    return request.with_values(**unnamed, **beside, **files)


class ClaimLost(Exception):
    """Another process has taken over the claim of this one, which was silent for long."""


class Claim:
    """The right of this process to make one target, until it is released or the process ends, however it does.

    A hidden file beside the target is locked. The system drops the lock of a process that dies, and the next process
    takes the claim over. That of a process that lives, but is silent, is taken over by `take_over`.
    """

    def __init__(self, path: Path, handle: int):
        self._path, self._handle = path, handle

    def holds(self) -> bool:
        """Returns whether the claim is this process's still: nobody has taken it over while the process was silent."""
        return _is_at(self._path, self._handle)

    def release(self) -> None:
        """Gives the target free; the hidden file is removed."""
        if self.holds():
            self._path.unlink(missing_ok=True)  # before the lock is dropped: whoever has it must have the file too
        os.close(self._handle)


def claim(target: Path, owner: str = "") -> Claim | None:
    """Claims a target for this process; None where another one has it. The target's folder must exist.

    owner: a text that `owner_of` returns to other processes. Raises Failure where no file can be written beside the
    target.
    """
    path = claim_path(target)
    try:
        while True:
            handle, created = _open(path)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return None
            except OSError:  # a file system without locks: then the file itself is the claim
                if created:
                    return _signed(path, handle, owner)
                os.close(handle)
                return None
            if _is_at(path, handle):
                return _signed(path, handle, owner)
            os.close(handle)  # its owner has removed it in between
    except OSError as error:
        raise Failure(f"{target} cannot be written: {error.strerror}") from None


def owner_of(target: Path) -> str | None:
    """Returns the text of the last process that claimed a target; None where there is no claim on it."""
    try:
        return claim_path(target).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def take_over(target: Path, silent: str, owner: str) -> Claim | None:
    """Claims a target whose claim a silent process holds; None where another process was first.

    silent: the owner whose claim it was, and is no longer when that process wakes up: `Claim.holds` tells it so.
    """
    turn = claim(claim_path(target))  # one process at a time takes a claim over
    if turn is None:
        return None
    try:
        if owner_of(target) != silent:
            return None
        claim_path(target).unlink(missing_ok=True)
        return claim(target, owner)
    finally:
        turn.release()


def sweep(target: Path) -> None:
    """Removes the file of a claim on a target that a dead process has left, where there is one."""
    for path in (target, claim_path(target)):
        if claim_path(path).exists() and (left := claim(path)) is not None:
            left.release()


def sweep_temporary(targets: Iterable[Path]) -> None:
    """Removes the temporary files that processes which died while they wrote targets have left beside them."""
    names: dict[Path, set[str]] = {}
    for target in targets:
        names.setdefault(target.parent, set()).add(target.name)
    for folder, targets_there in names.items():
        for path in folder.glob(".*") if folder.is_dir() else ():
            match = TEMPORARY.fullmatch(path.name)
            if match and match[1] in targets_there and not is_claimed(folder / match[1]):
                path.unlink(missing_ok=True)


def claim_path(target: Path) -> Path:
    """Returns the hidden file whose lock is the claim on a target."""
    return target.with_name(f".{target.name}.claim")


def _open(path: Path) -> tuple[int, bool]:
    """Opens the file of a claim; True where it was not there before."""
    while True:
        try:
            return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644), True
        except FileExistsError:
            pass
        try:
            return os.open(path, os.O_RDWR), False
        except FileNotFoundError:  # released in between
            continue


def _signed(path: Path, handle: int, owner: str) -> Claim:
    """Returns a claim whose file names its owner."""
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, owner.encode(), 0)
    except OSError:  # the disk is full
        path.unlink(missing_ok=True)
        os.close(handle)
        raise
    return Claim(path, handle)


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def is_claimed(target: Path) -> bool:
    """Returns whether a process holds the claim on a target; a file that a dead process left is no claim."""
    try:
        handle = os.open(claim_path(target), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
