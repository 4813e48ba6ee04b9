"""What several tests of the Studio's APIs compare with."""

import pytest
from PIL import Image

from mlx_sd import StableDiffusion


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion.load("tiny")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """A picture of two colours."""
    image = Image.new("RGB", (64, 64), "teal")
    image.paste("orange", (0, 32, 64, 64))
    return image
