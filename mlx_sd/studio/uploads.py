"""Pictures that clients send: checked, decoded, and kept as new PNG files by ids."""

import base64
import binascii
import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..core.errors import Failure, InputError
from ..core.files import atomic_file
from ..request import Request
from . import exif_block
from .picture_parts import Parts, take_apart

BYTES = 32 << 20  # of a picture file
STORE_BYTES = 1 << 30  # of all files that are kept
_NAME = re.compile(r"\b([0-9a-f]{32})\.png", re.ASCII)  # in the path of a file
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp);base64,")
_RLE = 3  # of zlib: as small as others for photographs, and the fastest
_ROWS = 256  # that are converted at a time
# Orientation in EXIF -> how the picture is turned.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises at damaged pictures. Warning: where Python turns warnings into errors. It is not told to here:
# filters of warnings belong to the whole process, and other threads change them too.
_DAMAGES = (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError, Warning)


def used_by(requests: Iterable[Request]) -> set[str]:
    """Returns the ids of the pictures that requests name, in whatever setting."""
    return {id for request in requests for id in _NAME.findall(json.dumps(request.to_json(), default=str))}


class Upload(NamedTuple):
    """A picture that is kept, by its id."""

    id: str
    width: int
    height: int
    transparent: bool


class Uploads:
    """The pictures that clients have sent, in one folder; the least recently used ones make room for new ones.

    in_use: returns the ids that jobs still need, which stay. Methods may be called by any thread; one picture is
    decoded at a time, so that the memory for it is bounded.
    """

    def __init__(self, folder: Path, in_use: Callable[[], Collection[str]] = tuple, bound: int = STORE_BYTES):
        self._folder, self._in_use, self._bound = folder, in_use, bound
        self._lock = threading.Lock()

    def from_bytes(self, data: bytes) -> Upload:
        """Keeps a picture file; InputError with one line where it is none that is taken.

        The id is the hash of the file: a picture that is sent twice is decoded and kept once.
        """
        if len(data) > BYTES:
            raise InputError(f"the picture file has more than {BYTES >> 20} MiB; make it smaller first")
        id = hashlib.sha256(data).hexdigest()[:32]
        path = self._folder / f"{id}.png"
        with self._lock:
            with suppress(InputError):
                return self._describe(self.path(id))
            image = decode(take_apart(data))
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with atomic_file(path) as file:
                    image.save(file, format="PNG", compress_level=1, compress_type=_RLE)
            except OSError as error:
                raise Failure(f"the picture cannot be stored: {error.strerror}; free some space") from None
            self._make_room(id)
            return Upload(id, image.width, image.height, image.mode == "RGBA")

    def from_base64(self, text: str) -> Upload:
        """Keeps a picture file in base64, as it is or as a data: URL; InputError as `from_bytes`.

        Addresses are not fetched: a client could make this machine ask others for it.
        """
        if match := _DATA_URL.match(text):
            text = text[match.end() :]
        elif re.match(r"[a-z][a-z0-9+.-]{1,20}:", text, re.IGNORECASE):
            raise InputError("pictures are not fetched from addresses; send the picture itself, in base64")
        if len(text) > BYTES * 4 // 3 + 1024:
            raise InputError(f"the picture file has more than {BYTES >> 20} MiB; make it smaller first")
        if "\n" in text:  # lines of 76, as mail has them
            text = text.replace("\r", "").replace("\n", "")
        try:
            data = base64.b64decode(text.encode("ascii"), validate=True)
        except (binascii.Error, ValueError):
            raise InputError("the picture is not in base64") from None
        return self.from_bytes(data)

    def path(self, id: str) -> Path:
        """Returns the PNG file of an id, and marks it as used; InputError where there is none."""
        path = self._folder / f"{id}.png"
        if not _ID.fullmatch(id) or not path.is_file():
            raise InputError("the picture is not here (any more); send it again")
        with suppress(OSError):
            os.utime(path)
        return path

    def describe(self, id: str) -> Upload:
        """Returns what is known about the picture of an id; InputError where there is none."""
        return self._describe(self.path(id))

    def content(self, id: str) -> bytes:
        """Returns the PNG file of an id, read; InputError where there is none."""
        try:
            return self.path(id).read_bytes()
        except OSError:  # removed since, to make room
            raise InputError("the picture is not here (any more); send it again") from None

    def _describe(self, path: Path) -> Upload:
        try:
            with Image.open(path, formats=("PNG",)) as image:
                return Upload(path.stem, image.width, image.height, image.mode == "RGBA")
        except OSError:
            raise InputError("the picture is not here (any more); send it again") from None

    def _make_room(self, newest: str) -> None:
        """Removes the files that were not used for longest, until all are within the bound."""
        files = [(path.stat(), path) for path in self._folder.glob("*.png")]
        total = sum(status.st_size for status, _ in files)
        if total <= self._bound:
            return
        needed = {newest, *self._in_use()}
        for status, path in sorted(files, key=lambda entry: entry[0].st_mtime_ns):
            if path.stem not in needed and total > self._bound:
                path.unlink(missing_ok=True)
                total -= status.st_size


def decode(parts: Parts) -> Image.Image:
    """Returns the pixels of a picture, turned as its EXIF says; mode L, RGB or RGBA, and nothing else of the file."""
    image = _pixels(parts)
    turn = _TURNS.get(exif_block.orientation(parts.exif))
    return image if turn is None else image.transpose(turn)


def _pixels(parts: Parts) -> Image.Image:
    try:
        with Image.open(io.BytesIO(parts.pixels), formats=(parts.format,)) as opened:
            if opened.size != (parts.width, parts.height):
                raise ValueError("its headers name two sizes")
            opened.load()
            return _common(opened)
    except Image.DecompressionBombError:
        raise InputError("the picture has too many pixels; make it smaller first") from None
    except _DAMAGES as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"the {parts.format} cannot be read: it is damaged ({reason})") from None


def _common(image: Image.Image) -> Image.Image:
    """Returns the image in mode L, RGB or RGBA."""
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip these at 255
        return _eight_bits(image)
    if image.mode in ("1", "L") and not image.has_transparency_data:
        mode = "L"
    else:
        mode = "RGBA" if image.has_transparency_data else "RGB"
    result = image if image.mode == mode else image.convert(mode)
    result.info.clear()  # a PNG is written with what stands there
    return result


def _eight_bits(image: Image.Image) -> Image.Image:
    """Returns mode L of 16 bits, some rows at a time."""
    result = Image.new("L", image.size)
    for top in range(0, image.height, _ROWS):
        box = (0, top, image.width, min(top + _ROWS, image.height))
        values = np.asarray(image.crop(box)).astype(np.uint32)
        result.paste(Image.fromarray(((values + 128) // 257).astype(np.uint8)), box[:2])
    return result
