"""The manifest in info.json: every file of an export with its bytes and SHA-256, so that a copy can be checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import sha256

_AGAIN = "copy it again, or export again"


def describe(folder: Path, hashed: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Returns {"bytes": ..., "sha256": ...} of every file in a folder, by its path there with slashes, sorted.

    hashed: SHA-256 by path, of files that were hashed when they were written and are not read again.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": hashed.get(name) or sha256(path)}
    return files


def check(folder: Path, files: Any) -> None:
    """Raises InputError for the first file of a manifest that is missing, or whose bytes are not those of the export.

    folder: of the export. files: as `describe` returned it; files that it does not list may lie beside.
    """
    if not isinstance(files, Mapping):
        raise InputError(f"{folder}/info.json: files is no list of files; export again")
    for name, entry in files.items():
        size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not isinstance(size, int) or not isinstance(digest, str) or not is_inside(name):
            raise InputError(f"{folder}/info.json: files: the entry {name!r} is damaged; export again")
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing; {_AGAIN}")
        if path.stat().st_size != size:
            raise InputError(f"{path} has {path.stat().st_size} bytes, not the {size} of its export; {_AGAIN}")
        if sha256(path) != digest:
            raise InputError(f"{path} is damaged: its SHA-256 is not that of its export; {_AGAIN}")


def is_inside(name: str) -> bool:
    """Returns whether a path, with slashes, stays in the folder that it is relative to."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")
