"""The trash of the gallery: pictures that are taken out lie in a folder beside, until it is emptied."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..core.errors import Failure
from . import picture_record
from .picture_record import Record

NAME = "trash"  # of the folder, in the data folder
_MOST_NUMBERS = 10_000  # copies of one name


class Trash:
    """The pictures in the folder of the trash. Nothing that is moved replaces a file."""

    def __init__(self, gallery: Path):
        self.folder, self._gallery = gallery / NAME, gallery

    def throw(self, name: str) -> str:
        """Moves a picture of the gallery into the trash; returns its name there, with a number where that is taken.

        FileNotFoundError where it is gone, Failure where it cannot be moved.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise Failure(f"the folder {NAME} cannot be made beside the pictures: {error.strerror}") from None
        return _moved(self._gallery, self.folder, name)

    def restore(self, name: str) -> str:
        """Moves a picture back; returns its name in the gallery, with a number where that is taken; as `throw`."""
        return _moved(self.folder, self._gallery, name)

    def find(self, name: str) -> Record | None:
        """Returns what is known of a picture of the trash, by its name in the list; None for any other text."""
        return next((record for record in self._records() if record.name == name), None)

    def listing(self) -> list[dict[str, Any]]:
        """Returns the pictures of the trash, the newest first."""
        records = sorted(self._records(), key=lambda record: record.key, reverse=True)
        return [{"name": r.name, "version": r.version, "bytes": r.size, "modified": r.mtime_ns / 1e9} for r in records]

    def empty(self) -> int:
        """Removes the pictures of the trash for good, and no other file; returns their number."""
        removed = 0
        for record in self._records():
            with suppress(OSError):
                (self.folder / record.name).unlink()
                removed += 1
        return removed

    def _records(self) -> Iterator[Record]:
        """Yields the pictures, without a look into them."""
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries]
        except OSError:
            return
        for name in names:
            if picture_record.is_name(name):
                with suppress(OSError):
                    status = (self.folder / name).lstat()
                    if picture_record.is_picture(status):
                        yield Record(name, status.st_mtime_ns, status.st_size, 0, 0, "", "", "")


def _moved(source: Path, target: Path, name: str) -> str:
    """Moves a file to another folder under a name that is free there, whoever else writes there; returns the name."""
    stem, suffix = Path(name).stem, Path(name).suffix
    for number in range(1, _MOST_NUMBERS):
        free = name if number == 1 else f"{stem}-{number}{suffix}"
        try:
            _move(source / name, target / free)
        except FileExistsError:
            continue
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Failure(f"{name} cannot be moved to {target.name}: {error.strerror}") from None
        return free
    raise Failure(f"{name} cannot be moved: {target.name} has {_MOST_NUMBERS} files of this name; empty the trash")


def _move(source: Path, target: Path) -> None:
    """Moves a file; FileExistsError where something has the target's name."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # a file system without links: the name is taken by an empty file first
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        try:
            source.replace(target)
        except OSError:
            target.unlink()
            raise
    else:
        source.unlink()
