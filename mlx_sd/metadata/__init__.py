"""Picture files that say how they were made: our settings as JSON, and the text that A1111's web UI reads."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..core import device
from ..core.errors import Failure, InputError
from ..core.files import atomic_file, sha256
from ..core.version import VERSION
from . import picture_file
from .from_a1111 import Translation, translate
from .pixels import hash_as_stored, is_whole
from .to_a1111 import CALLS_KEY, DEVICE_KEY, FACTS, VERSION_KEY, to_text

__all__ = [
    "CALLS_KEY",
    "DEVICE_KEY",
    "FACTS",
    "VERSION_KEY",
    "digest",
    "encoded",
    "is_lossy",
    "is_whole",
    "read",
    "read_any",
    "save",
    "with_facts",
    "without_facts",
]


def with_facts(settings: Mapping[str, Any], calls: int | None = None) -> dict[str, Any]:
    """Returns the settings of a picture that is made here, with the version and the device that make it.

    calls: of the network, where the picture is made of tokens.
    """
    counted = {} if calls is None else {CALLS_KEY: calls}
    return {**settings, VERSION_KEY: VERSION, DEVICE_KEY: device.describe(bool(settings.get("coreml"))), **counted}


def without_facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings alone of those that a picture records."""
    return {name: value for name, value in settings.items() if name not in FACTS}


def save(
    image: Image.Image,
    path: Path,
    settings: Mapping[str, Any] | None,
    *,
    lossless: bool = False,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Writes a picture as PNG, JPEG or WebP, by the suffix of `path`: whole, or not at all.

    settings: a JSON object, which `read` gives back; beside it stands A1111's text of them. None writes neither.
    lossless: of WebP, whose quality is 95 otherwise. before: called when the picture is written and not yet at its
    place, where it does not come if that raises. Raises InputError for another suffix, Failure where the file cannot be
    written.
    """
    format = picture_file.format_of(path)
    try:
        texts = _texts(image, settings, format, lossless)
        with atomic_file(path, before) as file:
            picture_file.write(image, file, format, texts, lossless)
    except (OSError, ValueError) as error:  # ValueError: a side too long for the format
        reason = getattr(error, "strerror", None) or error
        raise Failure(f"{path} cannot be written: {reason}; nothing is left of it") from None


def encoded(image: Image.Image, settings: Mapping[str, Any]) -> bytes:
    """Returns the bytes of the PNG file that `save` would write."""
    file = io.BytesIO()
    picture_file.write(image, file, "PNG", _texts(image, settings, "PNG", False))
    return file.getvalue()


def _texts(image: Image.Image, settings: Mapping[str, Any] | None, format: str, lossless: bool) -> dict[str, str]:
    """Returns the texts that a picture is written with, by their names; none without settings."""
    if settings is None:
        return {}
    return {
        picture_file.SETTINGS: json.dumps(settings, ensure_ascii=False),
        picture_file.PARAMETERS: to_text(settings),
        picture_file.PIXELS: hash_as_stored(image, format, lossless),
    }


def is_lossy(path: Path) -> bool:
    """Returns whether the format that a path's suffix means always loses something."""
    return picture_file.format_of(path) == "JPEG"


def read(path: Path) -> dict[str, Any]:
    """Reads the settings that `save` stored in a picture; InputError where there are none."""
    settings, texts = _read(path)
    if settings is None:
        raise InputError(_silence(path, texts))
    return settings


def read_any(path: Path) -> dict[str, Any] | Translation:
    """Reads the settings that `save` stored in a picture, or else what A1111's text in it says.

    Raises InputError where there is neither.
    """
    settings, texts = _read(path)
    if settings is not None:
        return settings
    translation = translate(texts.get(picture_file.PARAMETERS, ""))
    if translation is None:
        raise InputError(_silence(path, texts))
    return translation


def _silence(path: Path, texts: Mapping[str, str]) -> str:
    """Returns the message for a picture that says nothing."""
    if texts.keys() & {"workflow", "prompt"}:
        return f"{path} holds a graph of ComfyUI, which is not read; save it with A1111's text, or give the settings"
    return (
        f"{path} does not say how it was made: no {picture_file.SETTINGS!r} text in it, and no settings of A1111's "
        "(was it edited or re-saved?)"
    )


def _read(path: Path) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Returns our settings in a picture, None without them, and all its texts; InputError where they are damaged."""
    texts = picture_file.read(path)
    text = texts.get(picture_file.SETTINGS)
    if text is None:
        return None, texts
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: its {picture_file.SETTINGS!r} text is damaged")
    return settings, texts


def digest(path: str) -> str:
    """Returns the SHA-256 of a file; InputError where it cannot be read."""
    try:
        return sha256(Path(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
