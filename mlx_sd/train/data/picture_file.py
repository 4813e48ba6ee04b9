"""Opens one picture for training, or says in one line why it cannot be used."""

import io
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageCms, UnidentifiedImageError

from ...core.errors import InputError
from ...core.files import missing
from ...tasks import images

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif", ".jxl"]
)
MINIMUM_SIDE = 64  # pixels of the shorter side
MAXIMUM_ASPECT = 4.0  # of the longer side to the shorter one

TRANSPARENT = "transparent parts are laid on white"
SIXTEEN_BITS = "16 bits a channel are reduced to 8"
CMYK = "CMYK is converted to sRGB by the colour profile in the file"
PROFILE = "colours are converted to sRGB from {}"
DAMAGED_PROFILE = "the colour profile is damaged and ignored"

_APPLE = frozenset((".heic", ".heif"))
_SEVERAL_VIEWS = (
    "MPO"  # a JPEG with further views behind it, as cameras and phones write them; the first is the picture
)
_UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, RuntimeError)  # the last of AVIF
_DAMAGED_EXIF = (struct.error, zlib.error, LookupError, TypeError, ArithmeticError)


class Picture(NamedTuple):
    """A picture as it is trained on, and what was changed to have it so."""

    image: Image.Image  # mode RGB, turned as its EXIF says
    remarks: tuple[str, ...]


def read(path: Path, minimum_side: int = MINIMUM_SIDE, maximum_aspect: float = MAXIMUM_ASPECT) -> Picture:
    """Reads a picture completely and converts it to RGB with 8 bits a channel.

    minimum_side: pixels that its shorter side must have. maximum_aspect: of its longer side to its shorter one.
    Transparent parts are laid on white; 16 bits are reduced to 8; CMYK and wide colour spaces are converted to sRGB by
    the profile in the file. `remarks` says which of these happened. Raises InputError, one line with the path, the
    reason and the way out, for a file that cannot be used.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, which are not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check(path, image, minimum_side, maximum_aspect)
                sixteen_bits = _has_sixteen_bits(image)
                image.load()
                picture, remarks = _converted(path, image)
    except FileNotFoundError:
        raise missing(path) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a picture; leave it out") from None
    except PermissionError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); change its permissions") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller first") from None
    except InputError:
        raise
    except (*_UNREADABLE, *_DAMAGED_EXIF) as error:
        raise _unreadable(path, error) from None
    return Picture(picture, (SIXTEEN_BITS, *remarks) if sixteen_bits else remarks)


def _check(path: Path, image: Image.Image, minimum_side: int, maximum_aspect: float) -> None:
    """Raises InputError for what the header alone shows to be of no use."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != _SEVERAL_VIEWS:
        raise InputError(f"{path} has {frames} frames or pages; save one of them as a picture of its own")
    shorter, longer = sorted(image.size)
    if shorter < minimum_side:
        raise InputError(
            f"{path} is {image.width} x {image.height} pixels; the shorter side must have at least {minimum_side}; "
            "use a larger picture or leave it out"
        )
    if longer > maximum_aspect * shorter:
        raise InputError(
            f"{path} is {image.width} x {image.height} pixels, longer than {maximum_aspect:g}:1, and most of it would "
            "be cut off; cut out the part that matters"
        )
    if image.mode == "LAB":
        raise InputError(f"{path} has colours in CIELAB, which are not converted; save it as RGB (sRGB)")
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):  # older Pillows open 16 bits of PNG as I
        raise InputError(f"{path} has 32 bits a channel, and its white is not known; save it with 8 bits")


def _has_sixteen_bits(image: Image.Image) -> bool:
    """Returns whether the file has 16 bits a channel; Pillow's decoders name them before the pixels are loaded.

    A BMP's BGR;16 has 16 bits for all three channels.
    """
    decoders = str(getattr(image, "tile", ()))
    return image.mode.startswith("I") or re.search(r"(?<!BGR);16[BLN]?\b", decoders) is not None


def _converted(path: Path, image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Returns an opaque RGB picture and the remarks."""
    remarks: list[str] = []
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK":
        common = images.read(_from_cmyk(path, image, profile))
        remarks.append(CMYK)
    else:
        common = images.read(image)
        if profile and common.mode in ("RGB", "RGBA"):
            common, remark = _to_srgb(common, profile)
            remarks += [remark] if remark else []
    if common.mode == "RGBA" and common.getchannel("A").getextrema() != (255, 255):
        remarks.append(TRANSPARENT)
    return images.opaque(common), tuple(remarks)


def _from_cmyk(path: Path, image: Image.Image, profile: bytes | None) -> Image.Image:
    """Returns a CMYK picture in sRGB, with its EXIF; InputError without a profile, which says what its inks look like.

    Pillow's own conversion knows nothing of inks and makes other colours than a printer or a viewer.
    """
    advice = "save it as RGB (sRGB) in a program that manages colours"
    if not profile:
        raise InputError(f"{path} is CMYK without a colour profile, so its colours are not known; {advice}")
    try:
        converted = ImageCms.profileToProfile(
            image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        raise InputError(f"{path} is CMYK, and its colour profile is damaged; {advice}") from None
    assert converted is not None  # as it is not done in place
    converted.info["exif"] = image.getexif().tobytes()
    return converted


def _to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, str | None]:
    """Returns a picture in sRGB, and a remark where that changed its colours."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip()
        if "srgb" in name.lower() or source.profile.xcolor_space.strip() != "RGB":
            return image, None
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image, DAMAGED_PROFILE
    assert converted is not None  # as it is not done in place
    return converted, PROFILE.format(" ".join(name.split()) or "the space of the profile in the file")


def _unreadable(path: Path, error: Exception) -> InputError:
    """Returns the error for a file that Pillow cannot decode, with the likely cause."""
    if not path.stat().st_size:
        return InputError(f"{path} is empty; copy it again or leave it out")
    if path.suffix.lower() in _APPLE:
        return InputError(f"{path} is HEIC, which is not read; export it as JPEG (on a Mac: sips -s format jpeg)")
    if isinstance(error, UnidentifiedImageError):
        return InputError(f"{path} is not a picture in a format that is read; save it as PNG or JPEG, or leave it out")
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path} is damaged ({reason}); copy it again or leave it out")
