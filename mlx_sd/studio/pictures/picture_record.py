"""What the gallery knows about one picture file: its version, its size, and the text that a search looks at."""

import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import InputError
from ...metadata import picture_file
from ...metadata.from_a1111 import translate

LARGEST = 256_000_000  # bytes of a file that is still taken for a picture
_LONGEST_NAME = 255
_LONGEST_PROMPT = 300  # characters that a list shows
_LONGEST_TEXT = 100_000  # characters of a picture that are searched
# Lists of files in the settings -> the word that finds them.
_FILES = {
    "loras": "lora",
    "embeddings": "embedding",
    "controls": "control",
    "adapters": "adapter",
    "ip_adapters": "ip_adapter",
}


class Record(NamedTuple):
    """One picture. Width and height are 0 where the file cannot be read."""

    name: str
    mtime_ns: int
    size: int  # bytes
    width: int
    height: int
    prompt: str  # its begin
    text: str  # prompt and settings, as `folded` makes them
    terms: str  # a line "key:value" for each setting, with a new line before the first and behind the last

    @property
    def key(self) -> tuple[int, str]:
        """Returns the place of the picture in the gallery, which is sorted by time."""
        return self.mtime_ns, self.name

    @property
    def version(self) -> str:
        """Returns a text that changes when the file does."""
        return f"{self.mtime_ns:x}-{self.size:x}"

    def to_json(self) -> dict[str, Any]:
        """Returns what a list shows of the picture."""
        return {
            "name": self.name,
            "version": self.version,
            "width": self.width,
            "height": self.height,
            "bytes": self.size,
            "modified": self.mtime_ns / 1e9,
            "prompt": self.prompt,
        }


def is_name(name: str) -> bool:
    """Returns whether a file of this name belongs into the gallery: a picture by its suffix, and not hidden."""
    if name.startswith(".") or Path(name).suffix.lower() not in picture_file.FORMATS:
        return False
    try:
        return len(name.encode()) <= _LONGEST_NAME
    except UnicodeEncodeError:  # no UTF-8: JSON cannot say it
        return False


def is_picture(status: os.stat_result) -> bool:
    """Returns whether a file's status, links not followed, is that of a file that is shown."""
    return stat.S_ISREG(status.st_mode) and 0 < status.st_size <= LARGEST


def read(folder: Path, name: str, status: os.stat_result) -> Record:
    """Returns the record of a file, whose pixels are not decoded; a damaged one has no size and only its name."""
    try:
        header = picture_file.read_header(folder / name)
    except InputError:
        return Record(name, status.st_mtime_ns, status.st_size, 0, 0, "", folded(name), "\n")
    settings = settings_of(header.texts)
    prompt = str(settings.get("prompt") or "")
    lines = [f"size:{header.width}x{header.height}", f"name:{name}", *_terms(settings)]
    terms = "\n".join(re.sub(r"\s+", " ", line) for line in lines)[:_LONGEST_TEXT]
    foreign = header.texts.get(picture_file.PARAMETERS, "") if picture_file.SETTINGS not in header.texts else ""
    text = "\n".join((name, prompt, str(settings.get("negative") or ""), foreign, terms))
    return Record(
        name,
        status.st_mtime_ns,
        status.st_size,
        header.width,
        header.height,
        prompt[:_LONGEST_PROMPT],
        folded(text[:_LONGEST_TEXT]),
        folded(f"\n{terms}\n"),
    )


def settings_of(texts: Mapping[str, str]) -> dict[str, Any]:
    """Returns the settings that a picture's texts hold, ours or A1111's; {} where they hold none that can be read."""
    try:
        settings = json.loads(texts[picture_file.SETTINGS])
    except (KeyError, ValueError, RecursionError):
        settings = None
    if isinstance(settings, dict):
        return settings
    translation = translate(texts.get(picture_file.PARAMETERS, ""))
    return {} if translation is None else translation.settings


def folded(text: str) -> str:
    """Returns a text for comparisons: without upper case, and with one form for each character."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def written(value: Any) -> str:
    """Returns a value of a setting as a search writes it: numbers as short as possible."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _terms(settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, str | int | float):
            yield f"{key}:{written(value)}"
        elif isinstance(value, list) and key in _FILES:
            for entry in value:
                name = (entry.get("path") or entry.get("model")) if isinstance(entry, dict) else entry
                yield f"{_FILES[key]}:{Path(str(name)).name}"
