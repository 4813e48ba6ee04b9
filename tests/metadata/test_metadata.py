"""A picture is written whole or not at all, in every format, and gives back what was stored in it."""

import errno
import io
import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from mlx_sd import metadata
from mlx_sd.core import device
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.metadata import picture_file

ABOUT = {"prompt": "a tent", "negative": None, "steps": 3, "sampler": "ddim", "schedule": "leading", "guidance": 2.0}
ABOUT |= {"seed": 0, "width": 8, "height": 8, "model": "tiny", "model_hash": "0"}
SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".PNG"]
TEXT = st.text().map(lambda text: text.encode("utf-8", "replace").decode())  # without lone surrogates

each_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def picture(size=(8, 8)):
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(values)


@settings(deadline=None)
@given(prompt=TEXT, negative=st.none() | TEXT, suffix=st.sampled_from(SUFFIXES))
def test_any_text_comes_back(tmp_path_factory, prompt, negative, suffix):
    path, about = tmp_path_factory.mktemp("p") / f"a{suffix}", {**ABOUT, "prompt": prompt, "negative": negative}
    metadata.save(picture(), path, about)
    assert metadata.read(path) == about


@each_suffix
def test_beside_our_settings_stands_a1111s_text(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    metadata.save(picture(), path, ABOUT | {"prompt": "ein Zelt über 海", "negative": "Öl"})
    text = picture_file.read(path)["parameters"]
    assert text.startswith("ein Zelt über 海\nNegative prompt: Öl\nSteps: 3, Sampler: DDIM, Schedule type: DDIM, ")


@each_suffix
def test_without_settings_a_file_says_nothing(tmp_path, suffix):
    metadata.save(picture(), tmp_path / f"a{suffix}", None)
    assert picture_file.read(tmp_path / f"a{suffix}") == {}
    with pytest.raises(InputError, match="does not say how it was made"):
        metadata.read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(("suffix", "error"), [(".png", 0), (".jpg", 1), (".webp", 2)])
def test_the_pixels_are_the_pictures(tmp_path, suffix, error):
    """JPEG and WebP at quality 95 are near; a lossless WebP is exact."""
    image, path = picture((4, 4)).resize((64, 64), Image.Resampling.BICUBIC), tmp_path / f"a{suffix}"
    for lossless in (False, True):
        metadata.save(image, path, ABOUT, lossless=lossless)
        with Image.open(path) as saved:
            difference = np.abs(np.asarray(saved.convert("RGB"), int) - np.asarray(image, int)).mean()
        assert difference <= (0 if lossless and suffix == ".webp" else error)
        assert metadata.read(path) == ABOUT


def test_a_jpeg_keeps_the_resolution_of_colours(tmp_path):
    metadata.save(picture(), tmp_path / "a.jpg", ABOUT)
    with Image.open(tmp_path / "a.jpg") as image:
        assert {component[1:3] for component in image.layer} == {(1, 1)}


def test_a_jpeg_without_room_says_what_it_leaves_out(tmp_path):
    """EXIF of a JPEG ends at 64 KiB. The settings go first, because they alone make the picture again."""
    path, about = tmp_path / "a.jpg", ABOUT | {"prompt": "tent " * 5000}
    with pytest.warns(UserWarning, match="'parameters' is left out"):
        metadata.save(picture(), path, about)
    assert metadata.read(path) == about and picture_file.read(path).keys() == {"mlx-sd", "mlx-sd-pixels"}
    with pytest.warns(UserWarning, match="will not say how it was made; use .png"):
        metadata.save(picture(), path, ABOUT | {"prompt": "tent " * 20000})
    assert picture_file.read(path) == {}
    metadata.save(picture(), tmp_path / "a.webp", about)
    assert picture_file.read(tmp_path / "a.webp").keys() == {"mlx-sd", "parameters", "mlx-sd-pixels"}


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"written as \.png, \.jpg, \.jpeg, \.webp"):
        metadata.save(picture(), tmp_path / "a.bmp", ABOUT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_an_interrupted_save_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    metadata.save(picture(), path, ABOUT)
    before = path.read_bytes()

    def half(self, f, **_):
        f.write(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(KeyboardInterrupt):
        metadata.save(picture(), path, ABOUT)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_failure_in_one_line(tmp_path, monkeypatch):
    def full(self, f, **_):
        f.write(b"half a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(Failure, match="No space left on device; nothing is left of it"):
        metadata.save(picture(), tmp_path / "a.png", ABOUT)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Failure, match="No such file or directory"):
        metadata.save(picture(), tmp_path / "vanished" / "a.png", ABOUT)


def test_a_side_too_long_for_the_format_is_a_failure(tmp_path):
    with pytest.raises(Failure, match="cannot be written"):
        metadata.save(Image.new("RGB", (16384, 1)), tmp_path / "a.webp", ABOUT)


PARAMETERS = "a tent — 帐篷\nSteps: 3, Sampler: Euler a, Seed: 1"


def _png(chunk):
    info = picture_file.PngInfo()
    if chunk == "zTXt":
        info.add_text("parameters", PARAMETERS.encode("latin-1", "replace").decode("latin-1"), zip=True)
    elif chunk == "tEXt":
        info.add_text("parameters", PARAMETERS.encode("latin-1", "replace").decode("latin-1"))
    else:
        info.add_itxt("parameters", PARAMETERS, zip=chunk == "iTXt compressed")
    return {"format": "PNG", "pnginfo": info}


def _exif(value):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = value
    return exif


_UTF16 = PARAMETERS.encode("utf-16-be")
WRITTEN = {  # how a file holds the text -> how it is saved; the text in Latin-1 where the way takes no more
    "PNG tEXt": _png("tEXt"),
    "PNG zTXt": _png("zTXt"),
    "PNG iTXt": _png("iTXt"),
    "PNG iTXt compressed": _png("iTXt compressed"),
    "JPEG": {"format": "JPEG", "exif": _exif(b"UNICODE\0" + _UTF16)},
    "WebP": {"format": "WEBP", "exif": _exif(b"UNICODE\0" + _UTF16)},
    "little endian": {"format": "JPEG", "exif": _exif(b"UNICODE\0" + PARAMETERS.encode("utf-16-le"))},
    "with a mark": {"format": "JPEG", "exif": _exif(b"UNICODE\0\xfe\xff" + _UTF16)},
    "with a little mark": {"format": "WEBP", "exif": _exif(b"UNICODE\0" + PARAMETERS.encode("utf-16"))},
    "ASCII": {"format": "JPEG", "exif": _exif(b"ASCII\0\0\0" + PARAMETERS.encode())},
    "undefined": {"format": "JPEG", "exif": _exif(b"\0" * 8 + PARAMETERS.encode())},
    "without a character set": {"format": "JPEG", "exif": _exif(PARAMETERS.encode())},
    "ended by zero": {"format": "JPEG", "exif": _exif(b"UNICODE\0" + _UTF16 + b"\0\0")},
    "GIF": {"format": "GIF", "comment": PARAMETERS.encode()},
    "JPEG comment": {"format": "JPEG", "comment": PARAMETERS.encode()},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_text_is_read_wherever_programs_write_it(tmp_path, name):
    picture().save(tmp_path / "a", **WRITTEN[name])
    expected = (
        PARAMETERS.encode("latin-1", "replace").decode("latin-1") if name in ("PNG tEXt", "PNG zTXt") else PARAMETERS
    )
    assert picture_file.read(tmp_path / "a") == {"parameters": expected}


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "bomb"])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    file = io.BytesIO()
    info = picture_file.PngInfo()
    info.add_text("parameters", "a" * (1 << 22 if damage == "bomb" else 10), zip=True)
    picture((64, 64)).save(file, format="PNG", pnginfo=info)
    content = file.getvalue()
    damaged = {"cut": content[:100], "noise": b"\x89PNG" + bytes(range(256)), "empty": b"", "bomb": content}[damage]
    (tmp_path / "a.png").write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.png is not a picture that can be read") as caught:
        picture_file.read(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(InputError, match="is a folder; give a picture"):
        metadata.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100000, ""])
def test_damaged_settings_are_named(tmp_path, text):
    info = picture_file.PngInfo()
    info.add_itxt("mlx-sd", text)
    picture().save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(InputError, match="its 'mlx-sd' text is damaged"):
        metadata.read(tmp_path / "a.png")


def test_a_picture_records_its_device_which_is_no_setting(tmp_path):
    settings = {"prompt": "a tent", "seed": 3}
    recorded = metadata.with_facts(settings)
    assert recorded["device"] == device.describe() and re.fullmatch(r".+ \((cpu|gpu)\)", recorded["device"])
    assert metadata.with_facts({"coreml": "packages"})["device"].endswith("(Core ML)")
    path = tmp_path / "a.png"
    metadata.save(Image.new("RGB", (8, 8)), path, recorded)
    assert metadata.without_facts(metadata.read(path)) == settings
