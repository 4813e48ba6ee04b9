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


def save(image: Image.Image, path: Path, about: dict[str, Any]) -> None:
    """Writes a PNG whole, with `about` as JSON in its text, and in the words other programs show ("parameters")."""
    info = PngInfo()
    info.add_itxt(_KEY, json.dumps(about, ensure_ascii=False))
    info.add_itxt("parameters", _parameters(about))
    with atomic_file(path) as f:
        image.save(f, format="PNG", pnginfo=info)


def read(path: Path) -> dict[str, Any]:
    """What `save` stored in a PNG; InputError if this is not such a picture."""
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
        about = json.loads(text)
    except json.JSONDecodeError:
        about = None
    if not isinstance(about, dict):
        raise InputError(f"{path}: its {_KEY!r} text is damaged")
    return about


def digest(path: str) -> str:
    """SHA-256 of a file; InputError where there is none."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _parameters(about: dict[str, Any]) -> str:
    # The form of AUTOMATIC1111's web UI, which many programs read.
    named = "" if about.get("class") is None else f"class {about['class']}"
    lines = [str(about.get("prompt") or named)]
    if about.get("negative"):
        lines.append(f"Negative prompt: {about['negative']}")
    lines.append(
        f"Steps: {about['steps']}, Sampler: {about['sampler']}, Schedule type: {about['schedule']}, "
        f"CFG scale: {about['guidance']}, Seed: {about['seed']}, Size: {about['width']}x{about['height']}, "
        f"Model hash: {about['model_hash']}, Model: {about['model']}"
    )
    return "\n".join(lines)
