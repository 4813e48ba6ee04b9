"""Writes a safetensors file whole or not at all, with metadata, and with the hash that A1111 knows adapters by."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors.numpy import save

from ...core.errors import Failure, InputError
from ...core.files import atomic_file, check_writable

SUFFIX = ".safetensors"
HASH = "sshs_model_hash"  # the SHA-256 of what follows the header, as kohya's scripts write it
DTYPES = {"float16": np.float16, "float32": np.float32}  # of the numbers in files
_ALIGNMENT = 8  # bytes: the numbers begin at a multiple of it


def check(path: Path, force: bool = False) -> None:
    """Checks that a file can be written at `path`, which a training does before it begins.

    force: an existing file may be replaced. InputError for another suffix, a file that is there already, a folder in
    its place, and a folder that is missing or cannot be written.
    """
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: give it the suffix {SUFFIX}, by which all programs know such files")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")
    if os.path.lexists(path) and not force:
        raise InputError(f"{path} exists; choose another name, or --force to write over it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    check_writable(path.parent, "folder", must_exist=True)


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], force: bool = False) -> str:
    """Writes arrays and metadata, to which the hash of the numbers is added; returns the SHA-256 of the file.

    The same arguments give the same bytes, in the order of kohya's scripts. Raises the InputErrors of `check`, and
    Failure where writing fails, for example on a full disk; then nothing is left of the file, and one that was there
    before is as it was.
    """
    check(path, force)
    packed = memoryview(save({name: np.asarray(array, order="C") for name, array in arrays.items()}))
    start = 8 + int.from_bytes(packed[:8], "little")
    numbers = packed[start:]
    texts = {name: _encodable(text) for name, text in sorted(metadata.items())}
    texts[HASH] = hashlib.sha256(numbers).hexdigest()
    header = json.dumps({"__metadata__": texts} | json.loads(bytes(packed[8:start])), separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    digest = hashlib.sha256()
    try:
        with atomic_file(path) as file:
            for block in (len(header).to_bytes(8, "little"), header, numbers):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror or error}; nothing is left of it") from None
    return digest.hexdigest()


def numbers_of(array: mx.array, dtype: str, where: str) -> np.ndarray:
    """Returns an array's numbers in a dtype of `DTYPES`.

    where: names the array in errors. Failure where they are not finite, InputError where they are too large.
    """
    exact = np.array(array.astype(mx.float32))
    if not np.isfinite(exact).all():
        raise Failure(
            f"{where} holds numbers that are not finite: the training went wrong; take an earlier checkpoint, and a "
            "lower learning rate"
        )
    with np.errstate(over="ignore"):
        rounded = exact.astype(DTYPES[dtype])
    if not np.isfinite(rounded).all():
        raise InputError(f"{where} holds {np.abs(exact).max():.3g}, which is too large for {dtype}; write float32")
    return rounded


def _encodable(text: str) -> str:
    """A text without the lone surrogates of odd file names, which no header may have."""
    return text.encode("utf-8", "replace").decode("utf-8")
