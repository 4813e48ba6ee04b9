"""The captions beside pictures, `NAME.txt` or `NAME.caption`, and the pictures of a folder."""

from pathlib import Path

from ...core import files, terminal
from ...core.errors import InputError
from .picture_file import SUFFIXES

CAPTION_SUFFIXES = (".txt", ".caption")
_PREVIEW = "preview"  # mflux: prompts of samples, which belong to no picture
_LARGEST = 100_000  # bytes of a caption file


def pictures(folder: Path) -> list[Path]:
    """Lists the pictures that lie in a folder itself, by name; hidden files are left out."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); change its permissions") from None
    return [path for path in entries if is_picture(path)]


def is_picture(path: Path) -> bool:
    """Returns whether a path is a file with the suffix of a picture, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and files.is_file(path)


def beside(picture: Path, suffixes: tuple[str, ...] = CAPTION_SUFFIXES) -> Path | None:
    """Returns the caption file of a picture, the first of `suffixes` that is there; None where none is."""
    candidates = (picture.with_name(picture.stem + suffix) for suffix in suffixes)
    return next((file for file in candidates if files.is_file(file)), None)


def read(file: Path) -> str:
    """Reads a caption: all lines of a UTF-8 file, joined by spaces.

    Raises InputError, one line, for a file that is empty, not UTF-8 or no caption by its size.
    """
    try:
        if (size := file.stat().st_size) > _LARGEST:
            raise InputError(f"{file} has {terminal.size(size)}, too much for a caption; write one or two sentences")
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); change its permissions") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8; save it as UTF-8") from None
    if not (caption := in_one_line(text)):
        raise InputError(f"{file} is empty; write a caption into it, or remove it and give --caption")
    return caption


def in_one_line(text: str) -> str:
    """Returns a text with single spaces for its line breaks and other white space."""
    return " ".join(text.split())


def orphans(folder: Path, owners: list[Path]) -> list[Path]:
    """Returns the caption files of a folder that belong to no picture, apart from mflux's `preview*.txt`."""
    stems = {path.stem for path in owners}
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in CAPTION_SUFFIXES
        and path.stem not in stems
        and not path.name.startswith((".", _PREVIEW))
        and files.is_file(path)
    ]
