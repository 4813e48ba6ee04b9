"""The folder of an app: a model set, the Swift package that runs it and a sample app, side by side.

`app.json` lists the files that an export wrote, with their hashes. Only these are ever replaced, and only by force.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOSPC
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.files import atomic_file, read_json, sha256
from mlx_sd.core.version import VERSION as PROGRAM

from . import manifest

MODEL_SET, PACKAGE = "ModelSet", "MLXSDKit"  # folders in the folder of an app
LIST = "app.json"
FORMAT, VERSION = "mlx-sd app", 1

_SWIFT = Path(__file__).parent / "swift"
_SAMPLE, _TESTS = "App", "Tests"  # folders of `coreml/swift`: the sample goes to the root, tests stay in the repository
_HIDDEN = (".swift-format",)  # hidden files of the package; all others are those of tools


def sources() -> dict[str, Path]:
    """Returns the files that go into the folder of an app: path there, with slashes -> file of this project."""
    files = {f"{PACKAGE}/LICENSE.txt": Path(__file__).parent / "kit/LICENSE.txt"}
    for path in sorted(_SWIFT.rglob("*")):
        parts = path.relative_to(_SWIFT).parts
        hidden = [part for part in parts if part.startswith(".") and part not in _HIDDEN]
        if not path.is_file() or hidden or parts[0] == _TESTS:
            continue
        files["/".join(parts[1:] if parts[0] == _SAMPLE else (PACKAGE, *parts))] = path
    return dict(sorted(files.items()))


def check(folder: Path, force: bool) -> None:
    """Raises InputError where the Swift files cannot be written into a folder, or would replace others.

    force: files of an earlier export, and no others, may be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    earlier = _earlier(folder)
    for name in (LIST, *sources()):
        path = folder / name
        _check_parents(folder, path)
        if not path.exists() and not path.is_symlink():
            continue
        if name != LIST and name not in earlier:
            raise InputError(f"{path} is not of an earlier export: move it away, or choose another folder for --swift")
        if not force:
            raise InputError(f"{folder} has {name} already; --force replaces the files of an earlier export")
        if path.is_dir():
            raise InputError(f"{path} is a folder, and a file of the app has this name: move it away")


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Yields the path for the model set in the folder of an app, and writes the Swift files when the block succeeds.

    `check` has been called. Where the block fails, a folder that it has made and left empty is removed. Raises Failure
    where the disk is full.
    """
    try:
        yield folder / MODEL_SET
        _write(folder)
    except OSError as error:
        reason = "no space is left" if error.errno == ENOSPC else error.strerror
        raise Failure(f"{error.filename or folder} failed: {reason}") from None
    finally:
        with suppress(OSError):
            folder.rmdir()  # which the system refuses unless it is empty


def _write(folder: Path) -> None:
    """Writes all files, first the list of them: what a killed process leaves is known as an export's."""
    earlier, files = _earlier(folder), sources()
    listed = {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files.items()}
    content = {"format": FORMAT, "version": VERSION, "made_by": f"mlx-sd {PROGRAM}", "files": listed}
    _put(folder / LIST, (json.dumps(content, indent=1) + "\n").encode())
    for name, path in files.items():
        _put(folder / name, path.read_bytes())
    for name in earlier.keys() - files.keys():  # an earlier version's, unless somebody has worked on it
        path = folder / name
        if manifest.is_inside(name) and path.is_file() and sha256(path) == earlier[name].get("sha256"):
            path.unlink()


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(content)


def _earlier(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the files that an earlier export wrote; InputError where its list is damaged or another program's."""
    path = folder / LIST
    if not path.exists():
        return {}
    content = read_json(path)
    files = content.get("files")
    entries = files.values() if isinstance(files, dict) else [None]
    if content.get("format") != FORMAT or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path} is not the list of an earlier export: move it away, or choose another folder")
    return dict(files or {})


def _check_parents(folder: Path, path: Path) -> None:
    for parent in path.relative_to(folder).parents:
        if (folder / parent).exists() and not (folder / parent).is_dir():
            raise InputError(f"{folder / parent} is a file, and a folder of the app has this name: move it away")
