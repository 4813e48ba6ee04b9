"""A request as clients see it: with ids in place of paths, so that it can be sent again."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ... import hires_setting
from ...request import Request
from ...tasks.painting import ALPHA
from .fields import HASHES, IGNORED
from .parts import Sources

# Lists of networks -> what their entries call the file.
_ENTRIES = {
    "loras": "path",
    "embeddings": "path",
    "controls": "model",
    "adapters": "model",
    "ip_adapters": "model",
}
# The folders of an absolute path; what has spaces is cut at the first of them.
_FOLDERS = re.compile(r"(?<![\w.~:/])(?:~|[A-Za-z]:)?/(?:[^\s/;,'\"()]+/)*(?=[^\s/;,'\"()])")


def shown_text(text: str, folders: Iterable[Path] = ()) -> str:
    """Returns a message of the library for a client: of absolute paths it has the last names alone.

    folders: whose names are taken out wherever they stand, also where they have spaces.
    """
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return _FOLDERS.sub("", text)


def shown_request(sources: Sources, request: Request) -> dict[str, Any]:
    """Returns a request as clients see it: `read_request` reads it back, and it has no path in it."""
    values = {key: value for key, value in request.to_json().items() if key not in IGNORED and value is not None}
    title, picture = sources.catalog.title_of, sources.picture_name
    for key in ("model", "refiner", "vae", "ip_encoder"):
        if key in values:
            values[key] = title(values[key])
    if values.get("hires_mode") not in (None, *hires_setting.MODES):
        values["hires_mode"] = title(values["hires_mode"])
    for key in ("init_image", "mask"):
        if key in values and values[key] != ALPHA:
            values[key] = picture(values[key])
    for key, name in _ENTRIES.items():
        if key in values:
            values[key] = [_shown_entry(entry, name, title, picture) for entry in values[key]]
    return values


def _shown_entry(
    entry: Mapping[str, Any], name: str, title: Callable[[str], str], picture: Callable[[str], str]
) -> dict[str, Any]:
    values = {key: value for key, value in entry.items() if key not in (*HASHES, name) and value is not None}
    key = "id" if name == "path" else name
    for image in ("image", "mask"):
        if image in values:
            values[image] = picture(values[image])
    if "images" in values:
        values["images"] = [picture(image) for image in values["images"]]
    return {key: title(entry[name]), **values}
