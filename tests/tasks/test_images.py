"""Pictures of every kind come in as the eye sees them, and one line says why one does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlx_sd.core.errors import InputError
from mlx_sd.tasks import images

COLOUR = (200, 100, 50)
GREY = 124  # its luma


def _flat(mode):
    if mode in ("I;16", "I"):
        return Image.fromarray(np.full((4, 6), GREY * 257, np.uint16 if mode == "I;16" else np.int32))
    if mode == "1":
        return Image.new("1", (6, 4), 1)
    if mode == "PA":
        return Image.new("RGBA", (6, 4), (*COLOUR, 255)).convert("P").convert("PA")
    return Image.new("RGBA" if "a" in mode.lower() else "RGB", (6, 4), COLOUR).convert(mode)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "LA", "PA", "RGBX", "RGBa", "La", "I;16"]
)
def test_every_mode_shows_the_same_colour(mode):
    found = np.asarray(images.opaque(images.read(_flat(mode))), int)
    expected = 255 if mode == "1" else GREY if mode in ("L", "I", "F", "LA", "La", "I;16") else COLOUR
    assert found.shape == (4, 6, 3)
    assert np.abs(found - expected).max() <= (30 if mode in ("P", "PA") else 3)  # a palette has few colours


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_every_file_format(tmp_path, kind):
    Image.new("RGB", (40, 24), COLOUR).save(tmp_path / f"a.{kind}")
    found = np.asarray(images.read(tmp_path / f"a.{kind}").convert("RGB"), int)
    assert found.shape == (24, 40, 3) and np.abs(found - COLOUR).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(tmp_path, orientation):
    """Whatever way the camera was held, the red corner is at the top left."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8, 0] = 255
    upright = Image.fromarray(pixels)
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes each orientation
    stored = upright.transpose(Image.Transpose(turns[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert (np.asarray(images.read(tmp_path / "a.png")) == pixels).all()


def test_what_is_transparent_is_white(tmp_path):
    pixels = np.full((4, 4, 4), (9, 9, 9, 0), np.uint8)
    pixels[:, 2:, 3] = 255
    found = np.asarray(images.opaque(images.read(Image.fromarray(pixels))))
    assert (found[:, :2] == 255).all() and (found[:, 2:] == 9).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "a.png", transparency=1)
    assert (np.asarray(images.opaque(images.read(tmp_path / "a.png"))) == 255).all()


@given(width=st.floats(0.5, 5000), height=st.floats(0.5, 5000), factor=st.sampled_from([1, 2, 4, 8, 16]))
def test_the_nearest_size_is_near(width, height, factor):
    for side, wanted in zip(images.nearest((width, height), factor), (width, height), strict=True):
        assert side > 0 and side % factor == 0
        assert abs(side - wanted) <= factor / 2 or side == factor


def _truncated(path):
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])


MISTAKES = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (lambda path: path.mkdir(), "is a folder; give a picture"),
    "empty": (lambda path: path.write_bytes(b""), "is not a picture that can be read"),
    "text": (lambda path: path.write_text("a tent"), "is not a picture that can be read"),
    "truncated": (_truncated, "is not a picture that can be read"),
}


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif"])
@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_read_is_named(tmp_path, name, kind):
    make, message = MISTAKES[name]
    make(tmp_path / f"a.{kind}")
    with pytest.raises(InputError, match=rf"a\.{kind} {message}") as error:
        images.read(tmp_path / f"a.{kind}")
    assert "\n" not in str(error.value)


def test_a_picture_of_no_pixels_and_one_of_too_many(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="the picture is empty: 0 x 4 pixels"):
        images.read(Image.new("RGB", (0, 4)))
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with pytest.raises(InputError, match=r"a\.png has more than 5000 pixels; make it smaller first"):
        images.read(tmp_path / "a.png")
