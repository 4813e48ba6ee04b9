"""Pictures that attack a decoder are refused in one line, in a second, and in 200 MB; odd ones that are right work."""

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mlx_sd.core.errors import InputError
from mlx_sd.studio import picture_parts, stored_settings
from mlx_sd.studio.picture_parts import take_apart, texts_of
from mlx_sd.studio.uploads import Uploads, decode
from tests.studio import hostile
from tests.studio.hostile import HARMLESS, HTML, LARGEST, REFUSED, chunk, picture, png, saved

SECONDS, BYTES = 1.0, 200 << 20  # of the processor, and of memory


def opened(uploads: Uploads, data: bytes) -> Image.Image:
    """Returns the picture that is kept of a file."""
    path = uploads.path(uploads.from_bytes(data).id)
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.load()
    return image


@pytest.fixture
def uploads(tmp_path):
    return Uploads(tmp_path / "uploads")


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_picture_is_refused_in_one_line_and_nothing_is_kept(name, uploads, tmp_path):
    with pytest.raises(InputError) as caught:
        uploads.from_bytes(REFUSED[name]())
    assert "\n" not in str(caught.value) and 10 < len(str(caught.value)) < 250
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("name", HARMLESS)
def test_of_a_picture_with_a_hostile_part_the_pixels_alone_are_kept(name, uploads):
    data = HARMLESS[name]()
    path = uploads.path(uploads.from_bytes(data).id)
    content = path.read_bytes()
    assert HTML not in content and b"PK" not in content
    names, position = set(), 8
    while position < len(content):
        length, chunk_name = struct.unpack_from(">I4s", content, position)
        names.add(chunk_name)
        position += 12 + length
    assert names <= {b"IHDR", b"IDAT", b"IEND"}


# Run in a process of its own: its memory is this work's alone.
_MEASURE = """
import json, resource, sys, tempfile, time
from pathlib import Path
from mlx_sd.core.errors import InputError
from mlx_sd.studio.picture_parts import texts_of
from mlx_sd.studio.uploads import Uploads
from mlx_sd.metadata import picture_file
from tests.studio import hostile
import io

def peak():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in ru_maxrss what the process was before it became this program.
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
def read(data):
    picture_file.read(io.BytesIO(texts_of(data)), "it")
uploads = Uploads(Path(tempfile.mkdtemp()))
for format in ("PNG", "JPEG", "WEBP"):
    uploads.from_bytes(hostile.saved(hostile.picture(), format))
    read(hostile.saved(hostile.picture(), format))
files = Path(sys.argv[1])
before, seconds = peak(), {}
for file in sorted(files.iterdir()):
    for action in (uploads.from_bytes, read):
        data, start = file.read_bytes(), time.process_time()
        try:
            action(data)
        except InputError:
            pass
        seconds[f"{file.name} {action.__name__}"] = time.process_time() - start
print(json.dumps({"bytes": peak() - before, "seconds": seconds}))
"""


def measured(files, folder: Path) -> tuple[dict[str, float], int]:
    """Returns seconds of the processor for each file and action, and bytes of memory beyond those at the start."""
    for name, make in files.items():
        (folder / name.replace(" ", "-")).write_bytes(make())
    command = [sys.executable, "-c", _MEASURE, str(folder)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    result = json.loads(done.stdout)
    assert len(result["seconds"]) == 2 * len(files)
    slowest = max(result["seconds"], key=result["seconds"].__getitem__)
    print(f"{slowest}: {result['seconds'][slowest]:.3f} s; {result['bytes'] >> 20} MB")
    return result["seconds"], result["bytes"]


def test_all_hostile_pictures_take_little_time_and_memory(tmp_path):
    assert len(REFUSED) >= 40
    seconds, memory = measured({**REFUSED, **HARMLESS}, tmp_path)
    assert max(seconds.values()) <= SECONDS
    assert memory <= BYTES


@pytest.mark.slow
def test_the_largest_pictures_that_are_taken_fit_into_the_memory(tmp_path):
    seconds, memory = measured(LARGEST, tmp_path)
    assert max(seconds.values()) <= 4 * SECONDS
    assert memory <= BYTES


def test_without_the_check_of_the_header_a_bomb_takes_its_memory(monkeypatch):
    """The companion: the same file of 0.4 MB is 81 megapixels, which Pillow decodes without a word."""
    data = REFUSED["a PNG of 81 megapixels"]()
    assert len(data) < 1 << 20
    monkeypatch.setattr(picture_parts, "_check_size", lambda *_: None)
    assert take_apart(data).width == 9000
    with Image.open(io.BytesIO(data)) as image:  # nothing here stops it
        assert image.size == (9000, 9000)


def test_without_the_bound_of_scans_a_jpeg_takes_long(monkeypatch):
    data = hostile.REFUSED["a JPEG with thousands of scans"]()
    monkeypatch.setattr(picture_parts, "_SCANS", 10**9)
    assert take_apart(data).pixels.count(b"\xff\xda") > 3000


def test_exif_that_unfolds_is_refused_before_it_is_read():
    data = saved(picture(), "JPEG", exif=b"Exif\0\0" + hostile.exif_bomb())
    with pytest.raises(InputError, match="unfolds"):
        texts_of(data)


ODD = {
    "L": lambda: saved(picture("L"), "PNG"),
    "1 bit": lambda: saved(picture("1"), "PNG"),
    "RGBA": lambda: saved(picture("RGBA"), "PNG"),
    "LA": lambda: saved(picture("LA"), "PNG"),
    "palette": lambda: saved(picture().quantize(8), "PNG"),
    "palette with transparency": lambda: saved(picture().quantize(8), "PNG", transparency=0),
    "palette with several transparencies": lambda: saved(picture().quantize(8), "PNG", transparency=bytes(range(8))),
    "a transparent colour": lambda: saved(picture(), "PNG", transparency=picture().getpixel((0, 0))),
    "interlaced": lambda: png(9, 7, colours=0, interlaced=1, data=zlib.compress(bytes(100))),
    "CMYK": lambda: saved(picture("CMYK"), "JPEG"),
    "grey JPEG": lambda: saved(picture("L"), "JPEG"),
    "progressive JPEG": lambda: saved(picture(), "JPEG", progressive=True),
    "JPEG with restarts": lambda: saved(picture(size=(200, 200)), "JPEG", restart_marker_rows=1),
    "JPEG of two pictures": lambda: saved(picture(), "MPO", save_all=True, append_images=[picture("L")]),
    "JPEG with a profile": lambda: saved(picture(), "JPEG", icc_profile=bytes(500)),
    "lossless WebP": lambda: saved(picture("RGBA"), "WEBP", lossless=True),
    "lossy WebP": lambda: saved(picture(), "WEBP"),
    "lossy WebP with transparency": lambda: saved(picture("RGBA"), "WEBP", quality=50),
    "animated WebP": lambda: hostile.animated("WEBP"),
    "animated PNG": lambda: hostile.animated("PNG"),
    "one pixel": lambda: png(1, 1),
    "the widest": lambda: png(16384, 1, colours=0),
    "zeros behind the end": lambda: png(8, 8) + bytes(64),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_that_is_right_is_decoded_as_pillow_does(name, uploads):
    data = ODD[name]()
    image = opened(uploads, data)
    assert image.mode in ("L", "RGB", "RGBA") and image.format == "PNG"
    with Image.open(io.BytesIO(data)) as original:
        expected = original.convert(image.mode)
        assert image.size == original.size
        assert (image.mode == "RGBA") == original.has_transparency_data
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_sixteen_bits_become_eight_by_rounding(uploads):
    values = np.arange(600 * 7, dtype=np.uint16).reshape(600, 7) * 15
    image = opened(uploads, saved(Image.fromarray(values), "PNG"))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), np.round(values / 257).astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_orientation_in_exif_is_applied(orientation, format, uploads):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture(), format, exif=exif)
    with Image.open(io.BytesIO(data)) as original:
        expected = ImageOps.exif_transpose(original)
    image = opened(uploads, data)
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert image.getexif().get(0x0112) is None


@pytest.mark.parametrize("block", [b"", b"II*\0", b"MM\0*\0\0\0\x08", hostile.exif(9), hostile.exif(0), b"x" * 50])
def test_a_damaged_orientation_turns_nothing(block, uploads):
    assert opened(uploads, png(8, 4, before=chunk(b"eXIf", block))).size == (8, 4)


_SEEDS = [
    saved(picture(), "PNG"),
    saved(picture().quantize(8), "PNG", transparency=0),
    saved(picture(), "JPEG"),
    saved(picture(), "JPEG", progressive=True, exif=b"Exif\0\0" + hostile.exif(6)),
    saved(picture("RGBA"), "WEBP"),
    hostile.animated("WEBP"),
    hostile.animated("PNG"),
    saved(picture("P"), "GIF", comment=b"hello"),
]


@given(
    st.sampled_from(_SEEDS),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
    st.integers(0, 99),
)
@settings(max_examples=150)
def test_a_picture_with_any_bytes_changed_is_a_picture_or_one_line(data, changes, cut):
    content = bytearray(data[: len(data) - (cut if cut < 50 else 0)])
    for position, value in changes:
        content[position % len(content)] = value
    for action in (lambda data: decode(take_apart(data)), _read_texts):
        try:
            action(bytes(content))
        except InputError as error:
            assert "\n" not in str(error)


def _read_texts(data: bytes) -> object:
    return stored_settings.texts(data)
