"""Small copies of pictures for lists, made when they are first asked for and kept in a folder with a bound."""

import hashlib
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from ...core.errors import Failure
from ...core.files import atomic_file
from ...metadata import picture_file
from .picture_record import Record

SIDE = 256  # pixels
MEDIA_TYPE = "image/webp"
_QUALITY, _EFFORT = 80, 2
_LARGEST = 64_000_000  # pixels that are decoded
_BOUND = 256_000_000  # bytes of the folder
_EACH = 200  # new thumbnails after which the folder is measured
_SHARE = 0.8  # of the bound that is left when it is reached


class Thumbnails:
    """Thumbnails by name, time and size of a picture, in a folder that may be deleted at any time."""

    def __init__(self, folder: Path, bound: int = _BOUND):
        self._folder, self._bound = folder, bound
        self.executor = ThreadPoolExecutor(2, "thumbnails")
        self._lock, self._new = threading.Lock(), 0

    def close(self) -> None:
        """Ends the threads; what is not begun is not made."""
        self.executor.shutdown(cancel_futures=True)

    def get(self, folder: Path, record: Record) -> tuple[bytes, bool]:
        """Returns the thumbnail of a picture as WebP, and whether it is one: a damaged picture has a placeholder."""
        path = self._folder / f"{_key(folder, record)}.webp"
        with suppress(OSError):
            return path.read_bytes(), True
        image = _opened(folder / record.name)
        if image is None:
            return placeholder(), False
        content = _encoded(image)
        self._keep(path, content)
        return content, True

    def _keep(self, path: Path, content: bytes) -> None:
        """Writes a thumbnail, if there is room on the disk; without, it is made again."""
        with suppress(OSError, Failure):
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(content)
        with self._lock:
            self._new += 1
            if self._new % _EACH == 1:
                self.prune()

    def prune(self) -> None:
        """Removes the thumbnails that were made first, where all together are larger than the bound."""
        files: list[tuple[int, int, str]] = []
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    files.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        if total <= self._bound:
            return
        for _, size, path in sorted(files):
            if total <= self._bound * _SHARE:
                return
            with suppress(OSError):
                Path(path).unlink()
                total -= size


def placeholder() -> bytes:
    """Returns a picture that stands for one that cannot be read."""
    image = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    inner, outer = SIDE * 3 // 8, SIDE * 5 // 8
    draw.rectangle((inner - 16, inner - 16, outer + 16, outer + 16), outline=(200, 200, 200), width=4)
    draw.line((inner, inner, outer, outer), (200, 200, 200), 4)
    draw.line((inner, outer, outer, inner), (200, 200, 200), 4)
    return _encoded(image)


def _opened(path: Path) -> Image.Image | None:
    """Returns a picture made small; None where it is damaged, too large or gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with (
            open(handle, "rb") as file,  # noqa: PTH123 - of a handle
            Image.open(file, formats=sorted({*picture_file.FORMATS.values()})) as image,
        ):
            if image.width * image.height > _LARGEST:
                return None
            image.draft("RGB", (SIDE * 2, SIDE * 2))  # JPEGs are decoded smaller
            upright = ImageOps.exif_transpose(image)
            upright = upright.convert("RGBA" if "A" in upright.getbands() or "transparency" in upright.info else "RGB")
            upright.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            return upright
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError, Warning):
        return None
    except (KeyError, IndexError, TypeError, OverflowError, EOFError, MemoryError):  # damage that Pillow does not name
        return None


def _encoded(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "WEBP", quality=_QUALITY, method=_EFFORT)
    return content.getvalue()


def _key(folder: Path, record: Record) -> str:
    identity = f"{folder.name}\0{record.name}\0{record.mtime_ns}\0{record.size}"
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
