"""Whether a picture file holds the pixels that were written: a hash of them lies beside the settings."""

import hashlib
import io
import warnings
from pathlib import Path

from PIL import Image

from . import picture_file


def hash_of(image: Image.Image) -> str:
    """Returns 32 hexadecimal digits that stand for a picture's mode, size and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:32]


def hash_as_stored(image: Image.Image, format: str, lossless: bool) -> str:
    """Returns the hash of the pixels that a reader sees, which JPEG and WebP change: written once to memory."""
    if format == "PNG":
        return hash_of(image)
    stored = io.BytesIO()
    picture_file.write(image, stored, format, {}, lossless)
    with Image.open(stored) as opened:
        return hash_of(opened)


def is_whole(path: Path) -> bool:
    """Returns whether all pixels of a picture file can be read and are those that were written.

    Pictures without a hash, as other programs and earlier versions write them, need only be readable.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recorded = picture_file.read(path).get(picture_file.PIXELS)
            with Image.open(path) as image:
                image.load()
                return recorded in (None, hash_of(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
