"""Where pictures go: the paths that --output means."""

import itertools
import re
from pathlib import Path

from ..core.errors import InputError
from ..core.files import check_writable


def targets(output: str | None, titles: list[str], seed: int, count: int) -> list[Path]:
    """Returns one writable path per picture: `count` of each title.

    A name that the user chose is overwritten; names chosen here avoid what exists. InputError where `output` cannot be
    written or is no PNG.
    """
    several = len(titles) * count > 1
    path = Path(output or ".")
    folder = output is None or path.is_dir() or output.endswith(("/", "\\"))
    if not folder and path.suffix.lower() != ".png":
        raise InputError(
            f"--output {output}: only .png can say how it was made; give a name ending in .png or a folder"
        )
    parent = path if folder else path.parent
    check_writable(parent, "--output", must_exist=not folder)  # a folder is made when there is something to put into it
    if not folder and not several:
        return [path]
    paths: list[Path] = []
    for number, title in enumerate(titles, 1):
        for picture_seed in range(seed, seed + count):
            if folder:
                paths.append(_free(parent, f"{_slug(title)}-{picture_seed}", paths))
            else:
                place = f"-{number}" if len(titles) > 1 else ""
                paths.append(parent / f"{path.stem}{place}-{picture_seed}.png")
    return paths


def _free(parent: Path, stem: str, taken: list[Path]) -> Path:
    for i in itertools.count(1):
        path = parent / (f"{stem}.png" if i == 1 else f"{stem}.{i}.png")
        if path not in taken and not path.exists():
            return path
    raise AssertionError("count is endless")


def _slug(title: str) -> str:
    return "-".join(re.findall(r"\w+", title.lower()))[:48].strip("-") or "picture"
