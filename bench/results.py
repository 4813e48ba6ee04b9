"""Results of measurements as JSON files: written whole, and read only if they have this format's version."""

import json
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import atomic_file, read_json

FOLDER = Path(__file__).parent / "results"  # the results of this repository
VERSION = 1  # of the format; one more where a reader of older files would go wrong

Results = dict[str, Any]


def text(values: Results) -> str:
    """Returns the JSON of results, with the version first."""
    return json.dumps({"version": VERSION, **values}, indent=1) + "\n"


def write(path: Path, values: Results) -> None:
    """Writes results to a file, all or nothing."""
    with atomic_file(path) as f:
        f.write(text(values).encode())


def read(path: Path) -> Results:
    """Reads a file that `write` wrote; InputError for another version or a file without one."""
    values = read_json(path)
    if values.get("version") != VERSION:
        problem = f"are of version {values['version']}" if "version" in values else "have no version"
        raise InputError(f"{path}: the results {problem}, this mlx-sd reads version {VERSION}; measure again")
    return values


def report(values: Results, path: Path | None) -> None:
    """Prints results, and writes them if there is a path."""
    if path:
        write(path, values)
    print(text(values), end="")
