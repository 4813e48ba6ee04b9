"""Picture files with texts in them: PNG, JPEG and WebP are written; the comments of GIFs are read too.

PNG has text chunks with names. JPEG and WebP have EXIF: the field UserComment holds the text that A1111's web UI and
many other programs read, and ImageDescription holds our settings as JSON in ASCII, behind their name.
"""

import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ..core.errors import InputError
from ..core.files import missing

# The names of the two texts, as chunks of a PNG have them.
SETTINGS, PARAMETERS = "mlx-sd", "parameters"
PIXELS = "mlx-sd-pixels"  # the hash of the pixels
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # suffix -> Pillow's name

_IMAGE_DESCRIPTION, _EXIF_IFD, _USER_COMMENT, _UNIQUE_ID = 0x010E, 0x8769, 0x9286, 0xA420  # tags of EXIF 2.3
_CHARSETS = {b"ASCII\0\0\0": "utf-8", b"UNICODE\0": "utf-16-be", b"JIS\0\0\0\0\0": "iso2022_jp", b"\0" * 8: "utf-8"}
_LARGEST_SEGMENT = 65533  # bytes of EXIF in a JPEG
_QUALITY = 95


def format_of(path: Path) -> str:
    """Returns Pillow's name of the format that a path's suffix means; InputError for any other suffix."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path}: pictures are written as {', '.join(FORMATS)}; give a name that ends in one of them")
    return FORMATS[suffix]


def write(
    image: Image.Image,
    file: BinaryIO,
    format: str,
    texts: Mapping[str, str],
    lossless: bool = False,
    *,
    quality: int | None = None,
) -> None:
    """Writes a picture with its texts into a file opened for binary writing.

    format: "PNG", "JPEG" (colours at full resolution) or "WEBP" (exact with `lossless`). quality: of these two, 0 to
    100; None is 95. texts: by SETTINGS and PARAMETERS; a JPEG without room for both keeps the settings, with a warning.
    """
    quality = _QUALITY if quality is None else quality
    if format == "PNG":
        info = PngInfo()
        for name, text in texts.items():
            # As A1111 does, so that readers of tEXt alone find the text where it is Latin-1.
            (info.add_text if name == PARAMETERS else info.add_itxt)(name, text)
        image.save(file, format="PNG", pnginfo=info)
    elif format == "JPEG":
        exif = _fitting_exif(texts)
        image.convert("RGB").save(file, format="JPEG", quality=quality, subsampling="4:4:4", exif=exif)
    else:
        image.save(file, format="WEBP", quality=quality, lossless=lossless, exif=_exif(texts))


class Header(NamedTuple):
    """What stands in a picture file before its pixels."""

    width: int
    height: int
    texts: dict[str, str]  # by the names of `read`


def read(source: Path | BinaryIO, name: str | None = None) -> dict[str, str]:
    """Reads the texts of a picture file by their names; SETTINGS and PARAMETERS are the two that `write` writes.

    source: a path, or a file opened for binary reading with its name for messages. A text of EXIF's UserComment and the
    comment of a GIF or JPEG are PARAMETERS. Raises InputError for a file that is missing or no picture.
    """
    path = name or str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # only texts are read, whatever the pixels are
            with Image.open(source) as image:
                if SETTINGS in image.info:  # a PNG's, before its pixels, which may be damaged
                    return _strings(image.info)
                return _texts(image, getattr(image, "text", {}))
    except FileNotFoundError:
        raise missing(path) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give a picture") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is not a picture that can be read ({error})") from None


def read_header(source: Path | BinaryIO, name: str | None = None) -> Header:
    """Reads the size and the texts of a PNG, JPEG or WebP without its pixels, a hundred times as fast as `read`.

    source, name: as of `read`. A text behind the pixels of a PNG, where few programs write one, is not seen. Warnings
    of Pillow count as damage. Raises InputError for a file that is missing or none of these pictures.
    """
    path = name or str(source)
    try:
        with Image.open(source, formats=sorted({*FORMATS.values()})) as image:
            if image.format == "PNG":
                return Header(image.width, image.height, _strings(image.info))
            return Header(image.width, image.height, _texts(image, {}))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, Warning) as error:
        raise InputError(f"{path} is not a picture that can be read ({error})") from None
    except (struct.error, LookupError, TypeError, ArithmeticError, EOFError) as error:  # damaged EXIF
        raise InputError(f"{path} is not a picture that can be read ({error})") from None


def _texts(image: Image.Image, texts: Mapping[Any, Any]) -> dict[str, str]:
    """Returns the texts of a picture that has EXIF or a comment, beside those of its chunks."""
    strings = _strings(texts)
    exif = image.getexif()
    description = exif.get(_IMAGE_DESCRIPTION)
    fields = exif.get_ifd(_EXIF_IFD)
    if isinstance(description, str) and description.startswith(f"{SETTINGS}:"):
        strings.setdefault(SETTINGS, description.removeprefix(f"{SETTINGS}:"))
    if isinstance(pixels := fields.get(_UNIQUE_ID), str):
        strings.setdefault(PIXELS, pixels)
    for value in (fields.get(_USER_COMMENT), image.info.get("comment")):
        if text := _decoded(value):
            strings.setdefault(PARAMETERS, text)
    return strings


def _strings(texts: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): str(text) for name, text in texts.items() if isinstance(text, str)}


def _exif(texts: Mapping[str, str]) -> Image.Exif:
    exif = Image.Exif()
    if SETTINGS in texts:
        exif[_IMAGE_DESCRIPTION] = f"{SETTINGS}:{_ascii(texts[SETTINGS])}"
    if PIXELS in texts:
        exif.get_ifd(_EXIF_IFD)[_UNIQUE_ID] = texts[PIXELS]
    if PARAMETERS in texts:
        encoded = texts[PARAMETERS].encode("utf-16-be", "replace")
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + encoded
    return exif


def fitting(texts: Mapping[str, str], format: str) -> dict[str, str]:
    """Returns those texts that a picture of a format has room for: of a JPEG, without A1111's first, then none."""
    if format != "JPEG":
        return dict(texts)
    for names in ((SETTINGS, PARAMETERS, PIXELS), (SETTINGS, PIXELS), ()):
        present = {name: texts[name] for name in names if name in texts}
        if len(_exif(present).tobytes()) <= _LARGEST_SEGMENT:
            return present
    return {}


def _fitting_exif(texts: Mapping[str, str]) -> Image.Exif:
    """Returns the texts that a JPEG has room for, and warns of those that it has not."""
    present = fitting(texts, "JPEG")
    if SETTINGS in texts.keys() - present.keys():
        warnings.warn(
            "a JPEG has no room for such long settings: it will not say how it was made; use .png", stacklevel=5
        )
    elif PARAMETERS in texts.keys() - present.keys():
        warnings.warn(f"a JPEG has no room for such a long text: {PARAMETERS!r} is left out", stacklevel=5)
    return _exif(present)


def _ascii(json_text: str) -> str:
    """Returns JSON with its other characters as \\uXXXX, in pairs of surrogates where there have to be two."""
    units = memoryview(json_text.encode("utf-16-le", "surrogatepass")).cast("H")
    return "".join(chr(unit) if unit < 0x80 else f"\\u{unit:04x}" for unit in units)


def _decoded(value: Any) -> str | None:
    """Returns the text of EXIF's UserComment or of a comment; None where it is none."""
    if isinstance(value, tuple):  # some programs write the bytes as numbers
        value = bytes(byte for byte in value if isinstance(byte, int) and 0 <= byte < 256)
    if isinstance(value, str):
        return value.strip("\0") or None
    if not isinstance(value, bytes):
        return None
    charset = _CHARSETS.get(value[:8])
    content = value[8:] if charset else value
    if charset == "utf-16-be":
        charset, content = _utf16(content)
    text = content.decode(charset or "utf-8", "replace")
    return text.strip("\0") or None


def _utf16(content: bytes) -> tuple[str, bytes]:
    """Returns the byte order of a text in UTF-16, and the text without a mark of it: some programs write the other."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ("utf-16-le" if content[0] == 0xFF else "utf-16-be"), content[2:]
    # The half that is zero in Latin letters comes first in big endian.
    little = content[1::2].count(0) > content[0::2].count(0)
    return ("utf-16-le" if little else "utf-16-be"), content
