"""Picture files of strangers, taken apart before a decoder sees them: PNG, JPEG and WebP.

Sizes come from the files' own headers, and only what decodes to pixels is handed on: no profiles, texts, previews or
further frames, and nothing that lies behind the picture.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from ..core.errors import InputError
from .exif_block import check_exif

PIXELS = 16_000_000  # of a picture
SIDE = 16384
# Decoders have several copies of a WebP's canvas, and of a JPEG with four colours: 16 bytes a pixel in all.
PIXELS_WIDE = 10_000_000
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_CHUNKS = 20_000  # of a file: encoders write pieces of 8 KB and more
_TEXT_CHUNKS, _TEXT_BYTES = 64, 2 << 20  # of a PNG, as they lie in it
_SCANS = 32  # of a progressive JPEG: each goes over all pixels, and may take a few bytes; encoders write 10 or so
_FOREIGN = (
    (re.compile(rb"GIF8[79]a"), "a GIF"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF"),
    (re.compile(rb"BM.{12}", re.DOTALL), "a BMP"),
    (re.compile(rb".{4}ftyp(heic|heix|mif1|avif|avis)", re.DOTALL), "a HEIC or AVIF"),
    (re.compile(rb"\s*(<\?xml|<svg|<!DOCTYPE|<html)", re.IGNORECASE), "a text in XML or HTML"),
    (re.compile(rb"%PDF"), "a PDF"),
)
_IEND = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # of a JPEG: in its data, FF stands before 00 or a restart
_SOI, _EOI, _SOS, _EXIF, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE1, 0xFE
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
_KEPT = (0xC4, 0xDB, 0xDD, 0xE0, 0xEE)  # tables, restart interval, JFIF and Adobe's colours


class Parts(NamedTuple):
    """A picture file taken apart."""

    format: str  # as Pillow calls it
    width: int
    height: int
    pixels: bytes  # a file of that format, with what decodes to pixels alone
    exif: bytes  # a TIFF structure; empty without one
    texts: bytes  # a file of that format with the texts; its pixels count for nothing


def kind_of(data: bytes) -> str | None:
    """Returns what a file is by its first bytes: PNG, JPEG, WebP or GIF; None for anything else."""
    if data.startswith(_PNG):
        return "PNG"
    if data.startswith(_JPEG):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return "GIF" if data[:6] in (b"GIF87a", b"GIF89a") else None


def take_apart(data: bytes) -> Parts:
    """Takes a PNG, JPEG or WebP file apart; InputError where it is none, is damaged, or has too many pixels."""
    if reader := {"PNG": _png, "JPEG": _jpeg, "WebP": _webp}.get(kind_of(data) or ""):
        return reader(data)
    words = next((words for pattern, words in _FOREIGN if pattern.match(data)), "no picture")
    raise InputError(
        f"the file is {words}; send a PNG, JPEG or WebP" if data else "the picture is empty: no bytes came"
    )


def _check_size(width: int, height: int, limit: int = PIXELS) -> None:
    if not (width and height):
        raise InputError(f"the picture has no pixels: {width} x {height}")
    if width > SIDE or height > SIDE or width * height > limit:
        raise InputError(
            f"the picture has {width} x {height} pixels; at most {limit // 1_000_000} megapixels and {SIDE} a side are "
            "taken, so make it smaller first"
        )


def _truncated(kind: str) -> InputError:
    return InputError(f"the {kind} is damaged or ends too early; send the whole file")


def _png(data: bytes) -> Parts:
    """Keeps the header, palette, transparency and pixels of a PNG; of an animation, that is its first picture."""
    pieces, texts, exif = [_PNG], list[bytes](), b""
    width = height = 0
    for i, (name, start, end) in enumerate(_png_chunks(data)):
        if (name == b"IHDR") != (i == 0):
            raise _truncated("PNG")
        if name == b"IHDR":
            if end - start != 25:
                raise _truncated("PNG")
            width, height = struct.unpack_from(">II", data, start + 8)
            _check_size(width, height)
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            pieces.append(data[start:end])
        elif name in (b"tEXt", b"zTXt", b"iTXt") and len(texts) < _TEXT_CHUNKS:
            texts.append(data[start:end])
        elif name == b"eXIf" and not exif:
            exif = data[start + 8 : end - 4]
    if not width:
        raise _truncated("PNG")
    if sum(map(len, texts)) > _TEXT_BYTES:
        texts = []
    return Parts("PNG", width, height, b"".join(pieces), exif, _one_pixel_png(texts, exif))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, start and end of each chunk of a PNG, up to its end; InputError where the file goes on there."""
    position = len(_PNG)
    for _ in range(_CHUNKS):
        if position + 12 > len(data):
            raise _truncated("PNG")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _truncated("PNG")
        yield name, position, end
        position = end
        if name == b"IEND":
            if data[position:].strip(b"\0"):
                raise InputError("the PNG goes on behind its end, with something that is no picture; save it anew")
            return
    raise InputError(f"the PNG is in more than {_CHUNKS} pieces; save it anew")


def _one_pixel_png(texts: list[bytes], exif: bytes) -> bytes:
    """Returns a PNG of one pixel with the texts of another one, so that reading them decodes no more."""
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    texts = [*texts, _png_chunk(b"eXIf", exif)] if exif else texts
    return b"".join((_PNG, header, *texts, _png_chunk(b"IDAT", zlib.compress(b"\0\0")), _IEND))


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), name) + content + struct.pack(">I", zlib.crc32(name + content))


def _jpeg(data: bytes) -> Parts:
    """Keeps the tables, the frame and the scans of a JPEG, up to its end; phones write more pictures behind it."""
    pieces, texts, exif, frame = [data[:2]], [data[:2]], b"", b""
    position, scans, segments = 2, 0, 0
    width = height = 0
    while True:
        match = _MARKER.match(data, position)
        if match is None or segments > _CHUNKS:
            raise _truncated("JPEG")
        marker, start = match[1][0], match.end() - 2
        if marker == _EOI:
            break
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if end < start + 4 or end > len(data):
            raise _truncated("JPEG")
        segment, position, segments = data[start:end], end, segments + 1
        if marker in _OTHER_FRAMES or (marker in _FRAMES and frame):
            raise InputError("the JPEG is of a kind that is not read; save it as an ordinary JPEG or PNG")
        if marker in _FRAMES:
            if len(segment) < 10:
                raise _truncated("JPEG")
            height, width, colours = struct.unpack_from(">HHB", segment, 5)
            _check_size(width, height, PIXELS_WIDE if colours > 3 else PIXELS)
            frame = segment
            pieces.append(segment)
        elif marker == _SOS:
            scans += 1
            if not frame or scans > _SCANS:
                raise InputError(f"the JPEG has more than {_SCANS} scans, or one before its size; save it anew")
            position = _end_of_scan(data, end)
            pieces.append(data[start:position])
        elif marker in _KEPT:
            pieces.append(segment)
        elif marker == _EXIF and not exif and segment[4:10] == b"Exif\0\0":
            exif = segment[10:]
            texts.append(segment)
        elif marker == _COMMENT:
            texts[2 if exif else 1 :] = [segment]
    if not scans:
        raise _truncated("JPEG")
    end_of_picture = bytes((0xFF, _EOI))
    empty_scan = b"\xff\xda\0\x08\x01\0\0\0\x3f\0"  # where Pillow stops to read
    head = b"".join((*texts, frame, empty_scan, end_of_picture))
    return Parts("JPEG", width, height, b"".join((*pieces, end_of_picture)), exif, head)


def _end_of_scan(data: bytes, start: int) -> int:
    """Returns where the next marker of a JPEG stands that is not part of a scan's data."""
    match = _MARKER.search(data, start)
    if match is None:
        raise _truncated("JPEG")
    return match.start()


def _webp(data: bytes) -> Parts:
    """Checks the chunks of a WebP, drops those that are no pixels, and finds its size and EXIF."""
    size = int.from_bytes(data[4:8], "little") + 8
    if size > len(data):
        raise _truncated("WebP")
    if data[size:].strip(b"\0"):
        raise InputError("the WebP goes on behind its end, with something that is no picture; save it anew")
    chunks = list(_webp_chunks(data[:size]))
    name, content = chunks[0] if chunks else (b"", b"")
    width, height = _webp_size(name, content)
    _check_size(width, height, PIXELS_WIDE)
    pictures = [(inner, part) for inner, part in chunks if inner in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")]
    first = next((i for i, (inner, _) in enumerate(pictures) if inner == b"ANMF"), len(pictures))
    exif = next((part.removeprefix(b"Exif\0\0") for inner, part in chunks if inner == b"EXIF"), b"")
    if name == b"VP8X":
        flags = content[0] & 0b00010010  # alpha and animation
        pictures = [(b"VP8X", bytes((flags,)) + content[1:]), *pictures[: first + 1]]
    return Parts("WEBP", width, height, _riff(pictures), exif, data[:size])


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    for _ in range(_CHUNKS):
        if position >= len(data):
            return
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + length
        if position + 8 > len(data) or end > len(data):
            raise _truncated("WebP")
        yield name, data[position + 8 : end]
        position = end + length % 2
    raise InputError(f"the WebP is in more than {_CHUNKS} pieces; save it anew")


def _webp_size(name: bytes, content: bytes) -> tuple[int, int]:
    """Returns width and height as the first chunk has them (RFC 9649, sections 2.5 to 2.7)."""
    if name == b"VP8X" and len(content) >= 10:
        return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
    if name == b"VP8L" and len(content) >= 5 and content[0] == 0x2F:
        bits = int.from_bytes(content[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 " and len(content) >= 10 and content[3:6] == b"\x9d\x01\x2a":
        return struct.unpack_from("<H", content, 6)[0] & 0x3FFF, struct.unpack_from("<H", content, 8)[0] & 0x3FFF
    raise _truncated("WebP")


def _riff(chunks: list[tuple[bytes, bytes]]) -> bytes:
    content = b"".join(name + len(part).to_bytes(4, "little") + part + b"\0" * (len(part) % 2) for name, part in chunks)
    return b"RIFF" + (len(content) + 4).to_bytes(4, "little") + b"WEBP" + content


def texts_of(data: bytes) -> bytes:
    """Returns a small file in which `mlx_sd.metadata` finds the texts of a PNG, JPEG, WebP or GIF file.

    InputError where it is none, or where its EXIF would unfold to much more than it is.
    """
    if kind_of(data) == "GIF":
        return data[: 256 << 10]  # comments stand before the first picture; Pillow joins their pieces slowly
    parts = take_apart(data)
    check_exif(parts.exif)
    return parts.texts
