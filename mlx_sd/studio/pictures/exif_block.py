"""EXIF of strangers: the orientation is read here, and blocks that would unfold to much more are refused.

Entries of a directory may point at the same bytes: a block of 64 KB can unfold to hundreds of megabytes.
"""

import struct
from collections.abc import Iterator

from ...core.errors import InputError

_ORIENTATION, _SUBDIRECTORIES = 0x0112, (0x8769, 0x8825, 0xA005)  # EXIF, GPS, interoperability
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # bytes of a type's value
_ENTRIES, _DIRECTORIES = 2000, 8
_BYTES = 4 << 20  # that all entries together may hold


def orientation(block: bytes) -> int:
    """Returns the orientation in a TIFF structure, 1 to 8; 1 where it has none or is damaged."""
    if (order := _byte_order(block)) is None:
        return 1
    start = struct.unpack_from(f"{order}I", block, 4)[0]
    for tag, kind, _, value in _entries(block, start, order):
        if tag == _ORIENTATION and kind == 3:
            number = int(struct.unpack_from(f"{order}H", value)[0])
            return number if 1 <= number <= 8 else 1
    return 1


def check_exif(block: bytes) -> None:
    """Raises InputError where a TIFF structure unfolds to much more than a picture says about itself."""
    if (order := _byte_order(block)) is None:
        return
    starts, size, entries = [struct.unpack_from(f"{order}I", block, 4)[0]], 0, 0
    for start in starts:  # grows in the loop
        for tag, kind, count, value in _entries(block, start, order):
            size += count * _SIZES.get(kind, 1)
            entries += 1
            if tag in _SUBDIRECTORIES and kind in (4, 13) and len(starts) < _DIRECTORIES:
                starts.append(struct.unpack_from(f"{order}I", value)[0])
            if size > _BYTES or entries > _ENTRIES:
                raise InputError("the EXIF of the picture is damaged: it unfolds to more than 4 MB")


def _byte_order(block: bytes) -> str | None:
    """Returns the byte order of a TIFF structure, as struct writes it; None where it is none."""
    if len(block) < 8:
        return None
    return {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])


def _entries(block: bytes, start: int, order: str) -> Iterator[tuple[int, int, int, bytes]]:
    """Yields tag, type, count and the four bytes of the value of each entry of a directory, as far as it goes."""
    if start + 2 > len(block):
        return
    count = min(struct.unpack_from(f"{order}H", block, start)[0], _ENTRIES + 1)
    for i in range(count):
        position = start + 2 + 12 * i
        if position + 12 > len(block):
            return
        tag, kind, values = struct.unpack_from(f"{order}HHI", block, position)
        yield tag, kind, values, block[position + 8 : position + 12]
