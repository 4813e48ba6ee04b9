"""Edges of photos: Canny as OpenCV computes it, soft edges and strokes.

tests/goldens/canny.npz holds pictures and what OpenCV 5.0.0's `cv2.Canny(picture, 100, 200)` makes of them, in bits.
tests/parity compares live, where OpenCV is installed.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import mlx_sd
from mlx_sd.core.errors import InputError
from mlx_sd.tasks import control_image, edges

GOLDENS = Path(__file__).parent.parent / "goldens" / "canny.npz"
NAMES = ("photo", "whole", "noise", "smooth", "line")
SHARE = 0.999  # of pixels that must be equal


@pytest.mark.parametrize("name", NAMES)
def test_canny_is_opencv_s(name):
    with np.load(GOLDENS) as goldens:
        picture, bits = goldens[name], goldens[f"{name} edges"]
    size = picture.shape[:2]
    expected = np.unpackbits(bits)[: size[0] * size[1]].reshape(size).astype(bool)
    image = edges.canny(picture)
    assert image.shape == size and set(np.unique(image)) <= {0, 255}
    assert ((image > 0) == expected).mean() >= SHARE
    assert expected.mean() >= 0.03  # there is something to find


def square(side: int = 40, low: int = 40, high: int = 220) -> np.ndarray:
    picture = np.full((side, side, 3), low, np.uint8)
    picture[side // 4 : -side // 4, side // 4 : -side // 4] = high
    return picture


@pytest.mark.parametrize(("make", "width"), [(edges.canny, 1), (edges.soft, 4), (edges.scribble, 7)])
def test_edges_are_where_a_square_ends_and_nowhere_else(make, width):
    image = make(square())
    assert image.dtype == np.uint8 and image.shape == (40, 40)
    ys, xs = np.nonzero(image > 60)
    distances = np.maximum(np.abs(ys - 19.5), np.abs(xs - 19.5))  # from the middle; the square ends at 10
    assert len(distances) and distances.min() >= 10 - width and distances.max() <= 10 + width
    assert image[0].max() == 0 and image[19:21, 19:21].max() == 0


@pytest.mark.parametrize("make", [edges.canny, edges.soft, edges.scribble])
@given(shade=st.integers(0, 255))
def test_one_colour_has_no_edges(make, shade):
    assert not make(np.full((12, 9, 3), shade, np.uint8)).any()


@given(low=st.integers(0, 400), more=st.integers(0, 400))
def test_higher_thresholds_leave_a_part_of_the_edges(low, more):
    with np.load(GOLDENS) as goldens:
        picture = goldens["smooth"]
    assert not (edges.canny(picture, low + more, low + more) & ~edges.canny(picture, low, low)).any()


def test_grey_is_the_brightness_and_tile_the_photo_itself():
    photo = Image.fromarray(square())
    grey = np.asarray(control_image.pixels(photo, "grey", (40, 40)))
    assert grey.shape == (1, 40, 40, 3) and (grey[..., 0] == grey[..., 1]).all()
    np.testing.assert_allclose(np.unique(grey), [40 / 255, 220 / 255], atol=1e-6)
    tile = np.asarray(control_image.pixels(photo, "tile", (40, 40)))
    assert np.array_equal(tile, np.asarray(control_image.pixels(photo, None, (40, 40))))


def test_edges_are_made_at_the_size_of_the_picture():
    """One pixel wide, and not blurred by resizing."""
    image = np.asarray(control_image.pixels(Image.fromarray(square(80)), "canny", (40, 40)))
    assert set(np.unique(image)) == {0.0, 1.0}


@pytest.mark.parametrize("maker", control_image.MAKERS)
def test_a_control_image_can_be_looked_at(maker):
    photo = Image.fromarray(square())
    image = mlx_sd.control_image(photo, maker)
    assert (image.mode, image.size) == ("RGB", photo.size)
    pixels = np.array(control_image.pixels(photo, maker, photo.size))[0]
    assert (np.asarray(image) == np.round(pixels * 255)).all()
    assert mlx_sd.control_image(photo, maker, (20, 30)).size == (20, 30)


def test_a_maker_that_makes_no_image_is_refused():
    for maker in ("inpaint", "cany"):
        with pytest.raises(InputError, match=rf"unknown maker of control images '{maker}'.* there are canny, "):
            mlx_sd.control_image(Image.fromarray(square()), maker)
