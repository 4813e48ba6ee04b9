"""Picture files that say how they were made: our settings as JSON, and the text that A1111's web UI reads."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.errors import Failure, InputError
from ..core.files import atomic_file
from . import picture_file
from .pixels import hash_as_stored, is_whole
from .to_a1111 import VERSION_KEY, infotext

__all__ = ["VERSION_KEY", "digest", "is_whole", "read", "save", "settings_in"]


def save(image: Image.Image, path: Path, settings: Mapping[str, Any] | None, *, lossless: bool = False) -> None:
    """Writes a picture as PNG, JPEG or WebP, by the suffix of `path`: whole, or not at all.

    settings: a JSON object, which `read` gives back; beside it stands A1111's text of them. None writes neither.
    lossless: of WebP, whose quality is 95 otherwise. Raises InputError for another suffix, Failure where the file
    cannot be written.
    """
    format = picture_file.format_of(path)
    texts: dict[str, str] = {}
    if settings is not None:
        texts[picture_file.SETTINGS] = json.dumps(settings, ensure_ascii=False)
        texts[picture_file.PARAMETERS] = infotext(settings)
    try:
        if settings is not None:
            texts[picture_file.PIXELS] = hash_as_stored(image, format, lossless)
        with atomic_file(path) as file:
            picture_file.write(image, file, format, texts, lossless)
    except (OSError, ValueError) as error:  # ValueError: a side too long for the format
        reason = getattr(error, "strerror", None) or error
        raise Failure(f"{path} cannot be written: {reason}; nothing is left of it") from None


def read(path: Path) -> dict[str, Any]:
    """Reads the settings that `save` stored in a picture; InputError where there are none."""
    settings = settings_in(picture_file.read(path), path)
    if settings is None:
        raise InputError(
            f"{path} does not say how it was made: no {picture_file.SETTINGS!r} text in it (was it edited or re-saved?)"
        )
    return settings


def settings_in(texts: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    """Returns our settings among the texts of a picture, None without them; InputError where they are damaged."""
    text = texts.get(picture_file.SETTINGS)
    if text is None:
        return None
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: its {picture_file.SETTINGS!r} text is damaged")
    return settings


def digest(path: str) -> str:
    """Returns the SHA-256 of a file; InputError where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
