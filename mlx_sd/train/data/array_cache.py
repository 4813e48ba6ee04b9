"""Arrays that are kept under the hash of what they were computed from: in memory, or in a folder, one file each."""

import hashlib
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ...core.files import atomic_file

Arrays = dict[str, mx.array]

_BFLOAT16 = ".bfloat16"  # ends the name of an array whose bits are stored as uint16, which NumPy lacks a type for

_NAMES = ".names"  # lists the others: an archive's directory has no checksum, and may have lost some

# What reading a damaged archive may raise, wherever the damage is. The archive has a checksum of every array.
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


class ArrayCache:
    """Arrays by key: in files `KEY.npz` of a folder, or in memory where there is no folder."""

    def __init__(self, folder: Path | None = None):
        self._folder = folder
        self._memory: dict[str, Arrays] = {}

    def get(self, key: str, compute: Callable[[], Arrays]) -> Arrays:
        """Returns the arrays of a key, bit for bit as `compute` made them; it is called where they are not kept.

        A file that is damaged is made again. Where the folder cannot be written, one warning says so, and the arrays
        stay in memory.
        """
        if (arrays := self.peek(key)) is None:
            arrays = compute()
            mx.eval(arrays)
            if not self._write(key, arrays):
                self._memory[key] = arrays
        return arrays

    def peek(self, key: str) -> Arrays | None:
        """Returns the arrays of a key; None where they are not kept, or their file is damaged."""
        if key in self._memory:
            return self._memory[key]
        return None if self._folder is None else _read(self._folder / f"{key}.npz")

    def _write(self, key: str, arrays: Arrays) -> bool:
        """Returns whether a file has the arrays now."""
        if self._folder is None:
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._folder / f"{key}.npz") as file:
                stored: dict[str, Any] = dict(_stored(name, array) for name, array in arrays.items())
                stored[_NAMES] = np.array([*stored])
                np.savez(file, **stored)
        except OSError as error:
            warnings.warn(
                f"{self._folder} cannot be written ({error.strerror}); what would be cached there stays in memory",
                stacklevel=4,
            )
            self._folder = None
            return False
        return True


def _stored(name: str, array: mx.array) -> tuple[str, Any]:
    if array.dtype == mx.bfloat16:
        return name + _BFLOAT16, np.asarray(array.view(mx.uint16))
    return name, np.asarray(array)


def _read(file: Path) -> Arrays | None:
    try:
        # Opened here, since NumPy leaves a file open that is damaged.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            stored = {name: mx.array(archive[name]) for name in archive[_NAMES].tolist()}
    except _DAMAGE:
        return None
    return {
        name.removesuffix(_BFLOAT16): array.view(mx.bfloat16) if name.endswith(_BFLOAT16) else array
        for name, array in stored.items()
    }


def key_of(*parts: object) -> str:
    """Returns the hash of values whose `repr` says all that matters of them."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


def network_hash(network: nn.Module) -> str:
    """Returns the SHA-256 of a network's configuration and of all its weights, with names, dtypes and shapes."""
    digest = hashlib.sha256(repr(getattr(network, "config", None)).encode())
    parameters: Mapping[str, mx.array] = dict(tree_flatten(network.parameters()))
    for name, array in sorted(parameters.items()):
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        flat: Any = np.asarray(array.reshape(-1).view(mx.uint8))
        digest.update(flat)
    return digest.hexdigest()
