"""One picture: what is converted and said of it, and the one line for each that cannot be used."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mlx_sd.core.errors import InputError
from mlx_sd.train.data import picture_file
from tests.train.data.odd_pictures import cmyk_profile, swapped_profile, write_png16


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    """Returns random pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8))


def problem(path, **limits) -> str:
    """Returns the line of the error of a file."""
    with pytest.raises(InputError) as error:
        picture_file.read(path, **limits)
    line = str(error.value)
    assert "\n" not in line and line.startswith(str(path)) and (";" in line)
    return line.removeprefix(str(path)).strip()


def test_an_ordinary_picture_keeps_its_pixels_and_no_remark_is_made(tmp_path):
    noise(80, 70).save(tmp_path / "a.png")
    picture = picture_file.read(tmp_path / "a.png")
    assert picture.remarks == () and picture.image.mode == "RGB"
    assert np.array_equal(picture.image, noise(80, 70))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(90, 70).save(tmp_path / "a.png", exif=exif)
    plain = noise(90, 70)
    plain.getexif()[0x0112] = orientation
    turned = picture_file.read(tmp_path / "a.png").image
    assert np.array_equal(turned, ImageOps.exif_transpose(plain))
    assert turned.size == ((70, 90) if orientation > 4 else (90, 70))


def test_transparent_parts_lie_on_white_and_opaque_alpha_is_not_worth_a_word(tmp_path):
    pixels = np.asarray(noise(70, 70, 4)).copy()
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    assert picture_file.read(tmp_path / "opaque.png").remarks == ()
    pixels[:35, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "half.png")
    picture = picture_file.read(tmp_path / "half.png")
    assert picture.remarks == (picture_file.TRANSPARENT,)
    image = np.asarray(picture.image)
    assert (image[:35] == 255).all() and np.array_equal(image[35:], pixels[35:, :, :3])


@pytest.mark.parametrize("mode", ["L", "1", "P", "YCbCr"])
def test_other_modes_of_8_bits_are_read_as_pillow_converts_them(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "YCbCr" else "a.png")
    noise(70, 70).convert(mode).save(path)
    with Image.open(path) as image:
        expected = image.convert("RGB")
    picture = picture_file.read(path)
    assert picture.remarks == () and np.array_equal(picture.image, expected)


@pytest.mark.parametrize("colour", [[40000], [40000, 1000, 65535], [40000, 1000, 65535, 65535]])
def test_sixteen_bits_become_eight_within_one_level_and_it_is_said(tmp_path, colour):
    write_png16(tmp_path / "a.png", 70, 70, colour)
    picture = picture_file.read(tmp_path / "a.png")
    assert picture.remarks == (picture_file.SIXTEEN_BITS,)
    exact = np.array((colour * 3)[:3]) / 257
    assert np.abs(np.asarray(picture.image)[5, 5] - exact).max() <= 1


def test_cmyk_is_converted_by_its_own_profile_alone(tmp_path):
    image = Image.new("CMYK", (80, 70), (0, 0, 0, 0))
    image.paste((255, 0, 0, 0), (0, 0, 40, 70))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "a.jpg", icc_profile=cmyk_profile(), exif=exif, quality=100)
    picture = picture_file.read(tmp_path / "a.jpg")
    assert picture.remarks == (picture_file.CMYK,) and picture.image.size == (70, 80)
    pixels = np.asarray(picture.image).astype(int)
    assert (pixels[:36] <= 3).all() and (pixels[44:] >= 252).all()  # cyan ink is black in this profile
    image.save(tmp_path / "b.jpg")
    assert problem(tmp_path / "b.jpg").startswith("is CMYK without a colour profile")
    image.save(tmp_path / "c.jpg", icc_profile=cmyk_profile()[:300])
    assert problem(tmp_path / "c.jpg").startswith("is CMYK, and its colour profile is damaged")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_wide_colour_space_is_converted_to_srgb(tmp_path, mode):
    Image.new(mode, (70, 70), (255, 0, 0)).save(tmp_path / "a.png", icc_profile=swapped_profile())
    picture = picture_file.read(tmp_path / "a.png")
    assert picture.remarks == (picture_file.PROFILE.format("Swapped"),)
    assert np.abs(np.asarray(picture.image).astype(int) - [0, 255, 0]).max() <= 2


def test_srgb_profiles_change_nothing_and_damaged_ones_are_ignored_with_a_remark(tmp_path):
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile, remarks in (("a", srgb, ()), ("b", b"rubbish", (picture_file.DAMAGED_PROFILE,))):
        noise(70, 70).save(tmp_path / f"{name}.png", icc_profile=profile)
        picture = picture_file.read(tmp_path / f"{name}.png")
        assert picture.remarks == remarks and np.array_equal(picture.image, noise(70, 70))


def test_the_second_view_in_a_camera_s_jpeg_is_no_animation(tmp_path):
    noise(80, 70).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[noise(40, 35)])
    assert picture_file.read(tmp_path / "a.jpg").image.size == (80, 70)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animations_and_pages_are_refused(tmp_path, suffix):
    frames = [Image.new("RGB", (70, 70), (shade, 9, 9)) for shade in (0, 100, 200)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert problem(tmp_path / f"a.{suffix}").startswith("has 3 frames or pages")


def test_sizes_that_are_of_no_use_are_refused(tmp_path):
    for size in ((1, 1), (63, 300), (20_000, 20), (257, 64)):
        Image.new("RGB", size).save(tmp_path / "a.png")
        assert problem(tmp_path / "a.png").startswith(f"is {size[0]} x {size[1]} pixels")
    for size in ((64, 64), (256, 64), (64, 256)):
        Image.new("RGB", size).save(tmp_path / "a.png")
        picture_file.read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, suffix):
    noise(90, 90).save(tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: len(content) // 2])
    assert problem(tmp_path / f"a.{suffix}").startswith(("is damaged (", "is not a picture"))


def test_files_that_are_no_pictures_are_refused_each_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    assert problem(tmp_path / "empty.png").startswith("is empty")
    (tmp_path / "page.jpg").write_text("<html>")
    assert problem(tmp_path / "page.jpg").startswith("is not a picture in a format")
    (tmp_path / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert "sips -s format jpeg" in problem(tmp_path / "photo.HEIC")
    (tmp_path / "folder.png").mkdir()
    assert problem(tmp_path / "folder.png").startswith("is a folder")
    Image.new("F", (70, 70)).save(tmp_path / "float.tif")
    assert problem(tmp_path / "float.tif").startswith("has 32 bits")
    Image.new("LAB", (70, 70)).save(tmp_path / "lab.tif")
    assert problem(tmp_path / "lab.tif").startswith("has colours in CIELAB")
    Image.new("RGB", (70, 70)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    assert problem(tmp_path / "large.png").startswith("has more than 4000 pixels")
    with pytest.raises(InputError, match="does not exist"):
        picture_file.read(tmp_path / "none.png")


FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF"}


CHANGES = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255))


@given(st.sampled_from([*FORMATS]), st.lists(CHANGES, max_size=4))
def test_damage_of_any_kind_is_a_line_or_a_picture_and_never_a_traceback(folder, suffix, damage):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    options = {} if suffix == "gif" else {"exif": exif, "icc_profile": swapped_profile()}
    noise(70, 64).save(buffer, FORMATS[suffix], **options)
    content = bytearray(buffer.getvalue())
    for place, change in damage:
        content[int(place**3 * len(content))] ^= change  # headers more than pixels
    path = folder / f"a.{suffix}"
    path.write_bytes(content)
    try:
        assert picture_file.read(path).image.mode == "RGB"
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
