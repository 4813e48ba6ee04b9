"""Checkpoints of a run: folders of safetensors files with a manifest, written all or nothing.

step-000100/ holds weights.safetensors, optimizer.safetensors and so on, and manifest.json: the step, the record, and
the size and SHA-256 of each file. A checkpoint whose files differ from its manifest is damaged, and is not used.
"""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import mlx.core as mx
from mlx.utils import tree_flatten

from ...core import files
from ...core.errors import InputError
from . import durable

VERSION = 1  # of the form of a checkpoint
NUMBER = 2  # checkpoints that stay: the newest, and the one before
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{6,})")
_PART = re.compile(r"[a-z][a-z0-9_]*")
_SUFFIX = ".safetensors"
_ASIDE = "replaced"  # suffix of a checkpoint in whose place another of the same step is put

Arrays = dict[str, dict[str, mx.array]]


class Checkpoint(NamedTuple):
    """The state of a training after a step: its arrays by part and name, and a record of what is no array."""

    step: int
    arrays: Arrays  # "weights", "optimizer", "ema", ... -> name with dots -> array
    record: dict[str, Any]  # JSON: the epoch, the place in it, ...


def write(folder: Path, step: int, arrays: Mapping[str, Any], record: Mapping[str, Any]) -> Path:
    """Writes the checkpoint of a step into a folder, removes those that are superseded, and returns its path.

    arrays: trees of MLX arrays by the name of their part, nested or flat. A checkpoint of the same step is replaced,
    and those of later steps are removed, because this one does not follow from them. OSError where writing fails; then
    nothing is left of this checkpoint, and the others stay.
    """
    path = folder / name(step)
    part = folder / f".{path.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        entries = {}
        for title, tree in arrays.items():
            if not _PART.fullmatch(title):
                raise ValueError(f"a part of a checkpoint cannot be named {title!r}")
            entries[title + _SUFFIX] = _write_arrays(part / (title + _SUFFIX), flat(tree))
        content = {"version": VERSION, "step": step, "record": dict(record), "files": entries}
        content = json.loads(json.dumps(content))  # as it will be read
        manifest = content | {"sha256": _digest(content)}
        durable.write(part / MANIFEST, json.dumps(manifest, indent=1).encode())
        aside = folder / f"{path.name}.{_ASIDE}"
        if path.exists():
            path.rename(aside)
        part.rename(path)
        durable.flush_folder(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        tidy(folder)
        raise
    _remove_superseded(folder, step)
    return path


def flat(tree: Any) -> dict[str, mx.array]:
    """Returns the arrays of a nested tree by their names with dots; ValueError where two have the same name."""
    pairs: list[tuple[str, Any]] = list(tree_flatten(tree))  # type: ignore[arg-type]
    arrays: dict[str, mx.array] = dict(pairs)
    if len(arrays) < len(pairs):
        raise ValueError("two arrays of a checkpoint have the same name")
    if strange := [name for name, array in pairs if not isinstance(array, mx.array) or name == "__metadata__"]:
        raise ValueError(f"a checkpoint cannot hold {strange[0]!r}: it is no MLX array, or its name is reserved")
    return arrays


def name(step: int) -> str:
    """Returns the name of the folder of a step: "step-000100"."""
    return f"step-{step:06d}"


def steps(folder: Path) -> list[int]:
    """Lists the steps that have a checkpoint in a folder, whole or damaged, the newest first."""
    if not folder.is_dir():
        return []
    numbers = [int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((step for step in numbers if (folder / name(step)).exists()), reverse=True)


def newest(folder: Path) -> int | None:
    """Returns the newest step whose checkpoint is whole; None where there is no checkpoint at all.

    Every byte is compared with the manifest. Warns, in one line, where newer ones are damaged; InputError where all
    are.
    """
    problems: list[str] = []
    for step in steps(folder):
        try:
            _checked(folder / name(step))
        except InputError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{'; '.join(problems)}; the run goes on from step {step}", stacklevel=3)
        return step
    if problems:
        raise InputError(
            f"{folder} holds no whole checkpoint: {'; '.join(problems)}; copy a whole one there, or begin a new run"
        )
    return None


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint, bit for bit as it was written; InputError where it is damaged."""
    manifest = _checked(path)
    arrays: Arrays = {}
    try:
        for file in manifest["files"]:
            loaded = mx.load(str(path / file))
            assert isinstance(loaded, dict)
            mx.eval(loaded)  # MLX reads when it is asked, and the file may be gone by then
            arrays[file.removesuffix(_SUFFIX)] = loaded
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    return Checkpoint(manifest["step"], arrays, manifest["record"])


def tidy(folder: Path) -> None:
    """Finishes what a killed process has begun in a folder of checkpoints: half-written ones go, the others stay."""
    if not folder.is_dir():
        return
    durable.sweep(folder)
    for aside in folder.glob(f"step-*.{_ASIDE}"):
        path = aside.with_suffix("")
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(path)


class _Hashed:
    """A file as MLX writes it, which counts its bytes and keeps their SHA-256.

    MLX itself ignores errors of writing where it is given a path, as on a full disk; here they are raised.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: memoryview) -> int:
        """Writes all bytes to the file; OSError where the disk refuses."""
        self._sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a place of the file, which MLX does not do; an error, because the hash would be wrong."""
        raise NotImplementedError("a checkpoint is written from its beginning to its end")

    def tell(self) -> int:
        """Returns the number of bytes that are written."""
        return self.size

    def entry(self) -> dict[str, Any]:
        """Returns what the manifest says about the file."""
        return {"size": self.size, "sha256": self._sha256.hexdigest()}


def _write_arrays(path: Path, arrays: dict[str, mx.array]) -> dict[str, Any]:
    """Writes a safetensors file and returns its entry in the manifest."""
    with path.open("wb") as file:
        hashed = _Hashed(file)
        mx.save_safetensors(cast(BinaryIO, hashed), arrays)
        file.flush()
        durable.flush(file.fileno())
    return hashed.entry()


def _digest(content: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a manifest, without its own entry."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _checked(path: Path) -> dict[str, Any]:
    """Returns the manifest of a checkpoint; InputError says what is wrong with a damaged one."""
    content = files.read_json(path / MANIFEST)
    if content.pop("sha256", None) != _digest(content):
        raise InputError(f"{path / MANIFEST} is damaged")
    try:
        if content["version"] != VERSION:
            raise InputError(f"{path} is of version {content['version']}, and this is version {VERSION}")
        if name(content["step"]) != path.name:
            raise InputError(f"{path} holds step {content['step']}; give it back its name")
        if not isinstance(content["record"], dict):
            raise TypeError
        for file, entry in content["files"].items():
            if not _PART.fullmatch(file.removesuffix(_SUFFIX)) or not file.endswith(_SUFFIX):
                raise InputError(f"{path / MANIFEST} names a file {file!r}")
            _check_file(path / file, entry["size"], entry["sha256"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path / MANIFEST} lacks what a manifest says") from None
    return content


def _check_file(path: Path, size: int, sha256: str) -> None:
    try:
        actual = path.stat().st_size
        if actual != size:
            raise InputError(f"{path} is damaged: it has {actual} bytes and had {size}")
        if files.sha256(path) != sha256:
            raise InputError(f"{path} is damaged: its bytes have changed")
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _remove_superseded(folder: Path, step: int) -> None:
    """Removes all checkpoints but the newest ones up to a step; they lose their names first, since a kill may come."""
    earlier = [s for s in steps(folder) if s <= step]
    for old in steps(folder):
        if old not in earlier[:NUMBER]:
            path = folder / name(old)
            path.rename(folder / f".{path.name}.part")
    tidy(folder)
