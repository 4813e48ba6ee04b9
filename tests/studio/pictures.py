"""Picture files in tests of the Studio's APIs."""

import io

import numpy as np
from PIL import Image


def pixels(png: bytes) -> np.ndarray:
    """Returns the pixels of a picture file."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def png_of(image: Image.Image) -> bytes:
    """Returns a picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
