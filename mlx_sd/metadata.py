"""PNG files that hold everything needed to make them again."""

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from .core.errors import InputError
from .core.files import atomic_file

_KEY = "mlx-sd"
VERSION_KEY = "mlx_sd"  # of the version that made the picture, among its settings


def save(image: Image.Image, path: Path, settings: dict[str, Any]) -> None:
    """Writes a PNG whole, with `settings` as JSON in its text, and in the words other programs show ("parameters")."""
    info = PngInfo()
    info.add_itxt(_KEY, json.dumps(settings, ensure_ascii=False))
    info.add_itxt("parameters", _parameters(settings))
    with atomic_file(path) as f:
        image.save(f, format="PNG", pnginfo=info)


def read(path: Path) -> dict[str, Any]:
    """Reads the settings that `save` stored in a PNG; InputError where there are none."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(_KEY)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{path} is not a picture that can be read ({error})") from None
    if text is None:
        raise InputError(f"{path} does not say how it was made: no {_KEY!r} text in it (was it edited or re-saved?)")
    try:
        settings = json.loads(text)
    except json.JSONDecodeError:
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: its {_KEY!r} text is damaged")
    return settings


def digest(path: str) -> str:
    """Returns the SHA-256 of a file; InputError where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _parameters(settings: dict[str, Any]) -> str:
    # The form of AUTOMATIC1111's web UI, which many programs read.
    named = "" if settings.get("class") is None else f"class {settings['class']}"
    lines = [str(settings.get("prompt") or named)]
    if settings.get("negative"):
        lines.append(f"Negative prompt: {settings['negative']}")
    lines.append(
        f"Steps: {settings['steps']}, Sampler: {settings['sampler']}, Schedule type: {settings['schedule']}, "
        f"CFG scale: {settings['guidance']}, Seed: {settings['seed']}, Size: {settings['width']}x{settings['height']}, "
        f"Model hash: {settings['model_hash']}, Model: {settings['model']}"
    )
    return "\n".join(lines)
