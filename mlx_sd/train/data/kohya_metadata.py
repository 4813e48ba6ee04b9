"""The metadata of kohya's fine-tuning: one JSON object, {image: {"caption": ..., "tags": ..., ...}}."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core import files
from ...core.errors import InputError
from . import captions
from .listing import Entry, Listing, grouped

_SETTLED = ("train_resolution", "original_size")  # of pictures that kohya's scripts have sorted; it is done anew here
_TEXTS = ("caption", "tags")
_SHOWN = 40  # characters of a wrong value


def is_metadata(content: Mapping[str, Any]) -> bool:
    """Returns whether a JSON object is such metadata, and no config of datasets."""
    of_config = {"datasets", "general"} & content.keys()
    return not of_config and any(isinstance(entry, dict) for entry in content.values())


def read(
    file: Path,
    caption: str | None,
    folder: Path | None = None,
    *,
    repeats: int = 1,
    prefix: str = "",
    suffix: str = "",
) -> Listing:
    """Lists the pictures that a metadata file names.

    An image is a path, or the name of a picture in `folder` with or without its suffix; paths begin at the metadata's
    folder, else at the current one. A caption is its words, then its tags. caption: of pictures that have neither; None
    makes a problem of each. folder: of the pictures; None is that of the metadata. prefix, suffix: words before and
    behind every caption. InputError where the file is no JSON object.
    """
    content = files.read_json(file)
    if not content:
        raise InputError(f"{file} names no picture; write one entry for each")
    listing, unread = Listing("kohya metadata"), set[str]()
    finder = _Finder(*([folder] if folder else []), file.parent, Path())
    for name, entry in content.items():
        try:
            text = _caption(entry) or caption
            path = finder.picture(name)
        except InputError as error:
            listing.problems.append(f"{file}: {name} {error}")
            continue
        if not text:
            listing.problems.append(f'{file}: {name} has no "caption" and no "tags"; write one, or give --caption')
            continue
        unread |= entry.keys() - {*_TEXTS, *_SETTLED}
        listing.entries.append(Entry(path, captions.in_one_line(f"{prefix} {text} {suffix}"), repeats))
    named = {entry.path.resolve() for entry in listing.entries}
    strays = [path for path in captions.pictures(folder) if path.resolve() not in named] if folder else []
    if strays and not listing.problems:
        listing.warnings.append(grouped(f"not in {file.name}, and not used", strays))
    if unread:
        listing.warnings.append(f"{file}: not read here: {', '.join(sorted(unread))}")
    return listing


def _caption(entry: Any) -> str:
    """Returns the caption of an entry, "" where it has none; InputError has the end of a sentence."""
    if not isinstance(entry, dict):
        raise InputError(f'has {_short(entry)}; write {{"caption": "..."}} there')
    texts = []
    for key in _TEXTS:
        text = entry.get(key)
        if isinstance(text, list) and all(isinstance(part, str) for part in text):
            text = ", ".join(text)
        if text is not None and not isinstance(text, str):
            raise InputError(f'has no text in "{key}", but {_short(text)}; write words there')
        texts.append(captions.in_one_line(text or ""))
    return ", ".join(filter(None, texts))


class _Finder:
    """Finds the pictures of names in folders, each of which is listed once."""

    def __init__(self, *folders: Path):
        self._folders = folders
        self._stems: dict[Path, dict[str, list[Path]]] = {}

    def picture(self, name: str) -> Path:
        """Returns the picture of a key; InputError has the end of a sentence."""
        if "\0" in name or not name.strip():
            raise InputError("is no name of a picture; write its path there")
        for folder in self._folders:
            path = folder / name
            if captions.is_picture(path):
                return path
            matches = self._by_stem(path.parent).get(path.name, [])
            if len(matches) > 1:
                raise InputError(f"means {' and '.join(match.name for match in matches[:3])}; write the whole name")
            if matches:
                return matches[0]
        raise InputError(f"is no picture in {self._folders[0]}; correct the path, or leave the entry out")

    def _by_stem(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._stems:
            table: dict[str, list[Path]] = {}
            for path in captions.pictures(folder) if files.is_folder(folder) else ():
                table.setdefault(path.stem, []).append(path)
            self._stems[folder] = table
        return self._stems[folder]


def _short(value: Any) -> str:
    return json.dumps(value)[:_SHOWN]
