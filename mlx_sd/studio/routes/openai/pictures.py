"""Pictures in the format that a client of OpenAI's API asks for; in each, the settings stay with the picture."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image

from ....metadata import picture_file
from ....metadata.pixels import hash_of
from .requests import FORMATS


def encoded(png: bytes, format: str, quality: int | None) -> bytes:
    """Returns a picture of ours as PNG, JPEG or WebP with its settings in it. quality: 0 to 100, None is 95."""
    if format == "png":
        return png
    with Image.open(io.BytesIO(png)) as image:
        image.load()
    texts = picture_file.read_header(io.BytesIO(png), "a picture").texts
    settings = {name: texts[name] for name in (picture_file.SETTINGS, picture_file.PARAMETERS) if name in texts}
    stored = _written(image, format, {}, quality)
    with Image.open(io.BytesIO(stored)) as opened:
        settings[picture_file.PIXELS] = hash_of(opened)
    return _written(image, format, settings, quality)


def shown_preview(preview: bytes, size: tuple[int, int] | None, format: str, quality: int | None) -> bytes:
    """Returns a preview as a picture of a format, at (width, height) where these are known."""
    with Image.open(io.BytesIO(preview)) as opened:
        image = opened.convert("RGB")
    if size is not None and image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return _written(image, format, {}, quality)


def size_of(png: bytes) -> str:
    """Returns the size of a picture as OpenAI writes it, "512x512"."""
    with Image.open(io.BytesIO(png)) as image:
        return f"{image.width}x{image.height}"


def _written(image: Image.Image, format: str, texts: Mapping[str, str], quality: int | None) -> bytes:
    file = io.BytesIO()
    picture_file.write(image, file, FORMATS[format], picture_file.fitting(texts, FORMATS[format]), quality=quality)
    return file.getvalue()
