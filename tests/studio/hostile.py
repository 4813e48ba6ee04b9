"""Pictures that attack a decoder, and odd ones that are right: made here, byte by byte."""

import functools
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PNG = b"\x89PNG\r\n\x1a\n"
HTML = b"<html><script>alert(1)</script></html>"


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """Returns a chunk of a PNG, with its checksum."""
    return struct.pack(">I4s", len(content), name) + content + struct.pack(">I", zlib.crc32(name + content))


def header(width: int, height: int, depth: int = 8, colours: int = 2, interlaced: int = 0) -> bytes:
    """Returns the first chunk of a PNG."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlaced))


@functools.cache
def zeros(count: int) -> bytes:
    """Returns so many zeros as zlib packs them: less than a hundredth."""
    packer = zlib.compressobj(1)
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join([*pieces, packer.compress(bytes(count & 0xFFFFF)), packer.flush()])


def png(width: int, height: int, *, data: bytes | None = None, before: bytes = b"", **form: int) -> bytes:
    """Returns a black PNG of any size; before: chunks ahead of the pixels."""
    bits = form.get("depth", 8) * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(form.get("colours", 2), 1)
    rows = zeros(height * (1 + (width * bits + 7) // 8)) if data is None else data
    return PNG + header(width, height, **form) + before + chunk(b"IDAT", rows) + chunk(b"IEND")


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    """Returns the file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Returns a small picture with something in it."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _scan_bomb() -> bytes:
    """A progressive JPEG of 16 megapixels with thousands of scans of a few bytes, each over all pixels."""
    data = saved(Image.new("L", (4000, 4000)), "JPEG", progressive=True, quality=10)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 3000 + b"\xff\xd9"


def _with_jpeg_size(width: int, height: int) -> bytes:
    data = bytearray(saved(picture(), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _with_frame(marker: int) -> bytes:
    return saved(picture(), "JPEG").replace(b"\xff\xc0", bytes((0xFF, marker)), 1)


def _webp(name: bytes, content: bytes) -> bytes:
    inner = b"WEBP" + name + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def _corrupt_checksum() -> bytes:
    data = bytearray(png(8, 8))
    data[data.index(b"IDAT") + 6] ^= 0xFF
    return bytes(data)


def _without(name: bytes) -> bytes:
    data = png(8, 8)
    start = data.index(name) - 4
    return data[:start] + data[start + 12 + struct.unpack_from(">I", data, start)[0] :]


REFUSED: dict[str, Callable[[], bytes]] = {
    "no bytes": lambda: b"",
    "one byte": lambda: b"\x89",
    "text": lambda: b"hello",
    "the first bytes of a PNG alone": lambda: PNG,
    "a PNG of 81 megapixels": lambda: png(9000, 9000, colours=0),
    "a PNG of 400 megapixels": lambda: png(20000, 20000, depth=1, colours=0),
    "a PNG of 100 megapixels, interlaced": lambda: png(10000, 10000, depth=1, colours=0, interlaced=1),
    "a PNG of many megapixels by its header alone": lambda: png(2**31 - 1, 2**31 - 1, data=zlib.compress(b"\0")),
    "a PNG with sides below zero": lambda: png(2**32 - 1, 1, data=zlib.compress(b"\0")),
    "a PNG of one very long row": lambda: png(1_000_000, 1, data=zlib.compress(b"\0")),
    "a PNG without width": lambda: png(0, 8),
    "a PNG without height": lambda: png(8, 0),
    "a PNG that ends in its pixels": lambda: saved(picture(), "PNG")[:200],
    "a PNG whose pixels end early": lambda: png(64, 64, data=zlib.compress(bytes(100))),
    "a PNG without an end": lambda: _without(b"IEND"),
    "a PNG without pixels": lambda: _without(b"IDAT"),
    "a PNG without a header": lambda: _without(b"IHDR"),
    "a PNG with a header twice": lambda: png(8, 8, before=header(9000, 9000)),
    "a PNG with a wrong checksum": _corrupt_checksum,
    "a PNG whose pixels are no zlib": lambda: png(8, 8, data=b"not zlib at all"),
    "a PNG of a depth that there is not": lambda: png(8, 8, depth=7, data=zlib.compress(bytes(300))),
    "a PNG of colours that there are not": lambda: png(8, 8, colours=5, data=zlib.compress(bytes(300))),
    "a PNG with a chunk longer than the file": lambda: PNG + header(8, 8) + struct.pack(">I", 2**31 - 1) + b"IDAT",
    "a PNG in a million pieces": lambda: PNG + header(8, 8) + chunk(b"IDAT") * 1_000_000 + chunk(b"IEND"),
    "a PNG with HTML behind it": lambda: png(8, 8) + HTML,
    "a PNG with an archive behind it": lambda: png(8, 8) + b"PK\3\4" + bytes(100) + b"PK\5\6",
    "HTML with a PNG behind it": lambda: HTML + png(8, 8),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "XML that names a file": lambda: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg/>',
    "GIF": lambda: saved(picture("P"), "GIF"),
    "GIF that is an archive": lambda: saved(picture("P"), "GIF") + b"PK\3\4" + bytes(100),
    "GIF that is a script": lambda: b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)",
    "TIFF": lambda: saved(picture(), "TIFF"),
    "BMP": lambda: saved(picture(), "BMP"),
    "ICO": lambda: saved(picture(size=(16, 16)), "ICO"),
    "PDF": lambda: saved(picture(), "PDF"),
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(a) run\n",
    "a JPEG of 64 thousand a side": lambda: _with_jpeg_size(65500, 65500),
    "a JPEG of 100 megapixels": lambda: _with_jpeg_size(10000, 10000),
    "a JPEG without height": lambda: _with_jpeg_size(24, 0),
    "a JPEG with thousands of scans": _scan_bomb,
    "a JPEG that ends early": lambda: saved(picture(), "JPEG")[:-40],
    "a JPEG without pixels": lambda: b"\xff\xd8\xff\xd9",
    "a JPEG of a lossless kind": lambda: _with_frame(0xC3),
    "a JPEG of arithmetic codes": lambda: _with_frame(0xC9),
    "a JPEG with a segment of no length": lambda: b"\xff\xd8\xff\xe1\0\0" + bytes(100),
    "a JPEG of a million segments": lambda: b"\xff\xd8" + _segment(0xE2, b"") * 1_000_000 + bytes(9),
    "a WebP of 16 thousand a side": lambda: _webp(b"VP8X", bytes(4) + b"\xff\x3f\0" * 2),
    "a WebP of 268 megapixels, lossless": lambda: _webp(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(50)),
    "a WebP of 24 bits a side": lambda: _webp(b"VP8X", bytes(4) + b"\xff\xff\xff" * 2),
    "a WebP that ends early": lambda: saved(picture(), "WEBP")[:-20],
    "a WebP that says it is short": lambda: saved(picture(), "WEBP")[:30],
    "a WebP without a picture": lambda: _webp(b"EXIF", bytes(20)),
    "a WebP with HTML behind it": lambda: saved(picture(), "WEBP") + HTML,
    "a WebP of two sizes": lambda: _webp(b"VP8X", bytes(4) + b"\x07\0\0" * 2)[:30] + saved(picture(), "WEBP")[12:],
    "an AVIF": lambda: b"\0\0\0\x20ftypavif" + bytes(40),
}  # fmt: skip


def exif(orientation: int = 1, order: str = "<", first: int = 8) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(
        f"{order}IHHHIHHI", first, 1, 0x0112, 3, 1, orientation, 0, 8
    )  # the next one is the first


def exif_bomb(entries: int = 5000) -> bytes:
    """Returns a TIFF structure whose entries all name the same large part of it."""
    size = 8 + 2 + 12 * entries + 4
    records = b"".join(struct.pack("<HHII", 0x8000 + i, 7, size, 0) for i in range(entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + records + bytes(4)


def _text_bomb(name: bytes) -> bytes:
    packed = zeros(60 << 20)
    start = b"parameters\0" + (b"\0" if name == b"zTXt" else b"\1\0\0\0")
    return png(8, 8, before=chunk(name, start + packed) * 8)


def animated(format: str) -> bytes:
    frames = [picture().rotate(90 * i) for i in range(3)]
    options = {"lossless": True} if format == "WEBP" else {}
    return saved(frames[0], format, save_all=True, append_images=frames[1:], duration=100, **options)


def _script_text() -> bytes:
    info = PngInfo()
    info.add_text("parameters", HTML.decode())
    return saved(picture(), "PNG", pnginfo=info)


# Right in their pixels, and hostile in a part that is dropped: taken, and nothing of that part is kept.
HARMLESS: dict[str, Callable[[], bytes]] = {
    "a PNG with texts that unfold to 480 MB": lambda: _text_bomb(b"zTXt"),
    "a PNG with international texts that unfold to 480 MB": lambda: _text_bomb(b"iTXt"),
    "a PNG with a profile that unfolds to 60 MB": lambda: png(8, 8, before=chunk(b"iCCP", b"a\0\0" + zeros(60 << 20))),
    "a PNG with EXIF that unfolds": lambda: png(8, 8, before=chunk(b"eXIf", exif_bomb())),
    "a PNG with frames of other sizes": lambda: png(
        8, 8, before=chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + chunk(b"fcTL", bytes(26))
    ),
    "a PNG with HTML as its text": _script_text,
    "a JPEG with EXIF that goes round": lambda: saved(picture(), "JPEG", exif=b"Exif\0\0" + exif()),
    "a JPEG with EXIF that unfolds": lambda: saved(picture(), "JPEG", exif=b"Exif\0\0" + exif_bomb()),
    "a JPEG with EXIF that begins outside": lambda: saved(picture(), "JPEG", exif=b"Exif\0\0" + exif(first=2**31)),
    "a JPEG with HTML as its comment": lambda: saved(picture(), "JPEG", comment=HTML),
    "a JPEG with HTML behind it": lambda: saved(picture(), "JPEG") + HTML,
    "a JPEG with an archive behind it": lambda: saved(picture(), "JPEG") + b"PK\3\4" + bytes(100),
    "a WebP with a broken profile": lambda: saved(picture(), "WEBP", icc_profile=b"\0" * 500),
}  # fmt: skip


def _turned() -> bytes:
    before = chunk(b"eXIf", exif(6)) + chunk(b"tRNS", bytes(6))
    return png(4000, 4000, before=before)


def _webp_of_one_colour(**options: object) -> bytes:
    image = Image.new("RGBA", (3160, 3160), (1, 2, 3, 4))
    return saved(image, "WEBP", method=0, lossless=True, **options)


# As large as is taken, in few bytes.
LARGEST: dict[str, Callable[[], bytes]] = {
    "a PNG of 16 megapixels with a transparent colour, turned": _turned,
    "a PNG of 16 megapixels of 64 bits": lambda: png(4000, 4000, colours=6, depth=16),
    "a PNG of 16 megapixels of grey in 16 bits": lambda: png(4000, 4000, colours=0, depth=16),
    "a PNG of 16 megapixels of grey with alpha, interlaced": lambda: png(4000, 4000, colours=4, interlaced=1),
    "a progressive JPEG of 16 megapixels": lambda: saved(
        Image.new("RGB", (4000, 4000)), "JPEG", progressive=True, subsampling=0, exif=b"Exif\0\0" + exif(6)
    ),
    "a progressive JPEG of four colours": lambda: saved(Image.new("CMYK", (3160, 3160)), "JPEG", progressive=True),
    "a WebP of 10 megapixels": _webp_of_one_colour,
    "a moving WebP of 10 megapixels": lambda: _webp_of_one_colour(
        save_all=True, append_images=[Image.new("RGBA", (3160, 3160), (5, 6, 7, 8))], duration=9
    ),
}
