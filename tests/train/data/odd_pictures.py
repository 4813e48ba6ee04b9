"""Picture files that Pillow cannot write: 16 bits of colour, and colour profiles."""

import itertools
import struct
import zlib
from pathlib import Path

import numpy as np

_WHITE = (0.9642, 1.0, 0.8249)  # D50
_SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))  # XYZ of the primaries at D50


def write_png16(path: Path, width: int, height: int, colour: list[int]) -> None:
    """Writes a PNG of one colour with 16 bits for each of its 1, 3 or 4 channels."""
    line = b"\0" + np.array([colour] * width, ">u2").tobytes()
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[len(colour)], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(line * height)), (b"IEND", b""))
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(kind: bytes, space: bytes, connection: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_WHITE),
    } | tags
    offset, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        content += bytes(-len(content) % 4)
        table += tag + struct.pack(">II", offset + len(data), len(content))
        data += content
    header = struct.pack(">I4sI4s4s4s", offset + len(data), b"", 0x02400000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(*_WHITE)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def swapped_profile() -> bytes:
    """Returns a profile whose red is sRGB's green and whose green is sRGB's red, with a gamma of 2.2."""
    red, green, blue = (b"XYZ \0\0\0\0" + _fixed(*colour) for colour in _SRGB)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    tags = {b"rXYZ": green, b"gXYZ": red, b"bXYZ": blue, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    return _profile(b"mntr", b"RGB ", b"XYZ ", "Swapped", tags)


def cmyk_profile() -> bytes:
    """Returns a profile in which paper is white and any ink is black."""
    head = b"mft1\0\0\0\0" + struct.pack(">BBBB", 4, 3, 2, 0) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    ramp = bytes(range(256))
    grid = b"".join(bytes([0 if any(inks) else 255, 128, 128]) for inks in itertools.product((0, 1), repeat=4))
    return _profile(b"prtr", b"CMYK", b"Lab ", "Ink", {b"A2B0": head + ramp * 4 + grid + ramp * 3})
