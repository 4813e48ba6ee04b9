"""Images that routes make of a client's, kept among those that clients send, so that requests can name them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from ..work.studio import Studio


def named(studio: Studio, image: Image.Image) -> str:
    """Keeps an image; returns the name by which a request calls it, "upload:ID"."""
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return f"upload:{studio.uploads.from_bytes(file.getvalue()).id}"


def opened(studio: Studio, id: str) -> Image.Image:
    """Returns the pixels of an image that a client has sent, by its id."""
    with Image.open(studio.uploads.path(id), formats=("PNG",)) as image:
        image.load()
        pixels: Image.Image = image.copy()
        return pixels
