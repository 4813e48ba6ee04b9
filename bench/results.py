"""Results of measurements as JSON files: written whole, and read only where they are of this format."""

import json
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import atomic_file, read_json

VERSION = 1  # of what the files hold; one more where a reader of older files would go wrong

Results = dict[str, Any]


def text(values: Results) -> str:
    """Results as a file holds them, with the version first."""
    return json.dumps({"version": VERSION, **values}, indent=1) + "\n"


def write(path: Path, values: Results) -> None:
    """Writes results, all or nothing."""
    with atomic_file(path) as f:
        f.write(text(values).encode())


def read(path: Path) -> Results:
    """Reads what `write` wrote; InputError for a file of another version or of none."""
    found = read_json(path)
    if found.get("version") != VERSION:
        was = f"are of version {found['version']}" if "version" in found else "have no version"
        raise InputError(f"{path}: the results {was}, this mlx-sd reads version {VERSION}; measure again")
    return found


def report(values: Results, path: Path | None) -> None:
    """Prints results, and writes them where there is a path."""
    if path:
        write(path, values)
    print(text(values), end="")
