"""Lists of pictures with captions: diffusers' metadata.jsonl and metadata.csv, and mlx-examples' train.jsonl."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ...core import files
from ...core.errors import InputError
from . import captions
from .listing import Entry, Listing, grouped


class Columns(NamedTuple):
    """How a list names the two things that it says of a picture."""

    convention: str
    picture: str
    caption: str


# The file that holds a list -> its columns.
LISTS = {
    "metadata.jsonl": Columns("diffusers metadata.jsonl", "file_name", "text"),
    "metadata.csv": Columns("diffusers metadata.csv", "file_name", "text"),
    "train.jsonl": Columns("mlx-examples train.jsonl", "image", "prompt"),
}


def read(file: Path, caption: str | None, caption_column: str | None = None) -> Listing:
    """Reads a list of pictures that lie in the folder of the list, or below it.

    caption: of pictures for which the list has none. caption_column: the column that has the captions; None is that of
    the convention. Lines that cannot be used become problems, each with its number.
    """
    columns = LISTS[file.name]
    if caption_column:
        columns = columns._replace(caption=caption_column)
    listing = Listing(columns.convention)
    lines: dict[str, int] = {}  # of each picture
    rows = _csv_rows if file.suffix == ".csv" else _json_rows
    for number, row in rows(file):
        place = f"{file}, line {number}"
        if isinstance(row, str):
            listing.problems.append(f"{place} {row}")
            continue
        try:
            entry = _entry(file.parent, row, columns, caption)
        except InputError as error:
            listing.problems.append(f"{place} {error}")
            continue
        name = os.path.normpath(entry.path)
        if name in lines:
            listing.problems.append(
                f"{place} names {entry.path.name} again, after line {lines[name]}; leave one of the two out"
            )
            continue
        lines[name] = number
        listing.entries.append(entry)
    strays = [path for path in captions.pictures(file.parent) if os.path.normpath(path) not in lines]
    if strays and not listing.problems:
        listing.warnings.append(grouped(f"not in {file.name}, and not used", strays))
    return listing


def _entry(folder: Path, row: dict[str, Any], columns: Columns, caption: str | None) -> Entry:
    """Returns the picture of a row; InputError has the end of a sentence whose subject is the line."""
    name, text = row.get(columns.picture), row.get(columns.caption)
    if not isinstance(name, str) or not name.strip():
        raise InputError(f'has no "{columns.picture}"{_keys(row)}; name a picture there')
    if text is not None and not isinstance(text, str):
        raise InputError(f'has no text in "{columns.caption}", but {json.dumps(text)[:40]}; write the caption there')
    if not (words := captions.in_one_line(text or "") or caption):
        raise InputError(f'has no "{columns.caption}"{_keys(row)}; write a caption there, or give --caption for all')
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\0" in name:
        raise InputError(f"names {name!r}, which is not in {folder}; put the picture there")
    path = folder / name
    if not files.is_file(path):
        raise InputError(f"names {name}, which does not exist in {folder}; correct the name or remove the line")
    return Entry(path, captions.in_one_line(words))


def _keys(row: dict[str, Any]) -> str:
    return f" ({', '.join(str(key) for key in row)[:60]})" if row else ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); change its permissions") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8; save it as UTF-8") from None


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields the number and the object of each line that is not blank, or the end of a sentence about the line."""
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except RecursionError:
            yield number, "is nested too deeply; write one object"
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            yield number, f"is not JSON ({reason}); write one object a line"
        else:
            yield number, row if isinstance(row, dict) else "is not a JSON object; write {...}"


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields the same of a table whose first line names the columns."""
    reader = csv.DictReader(io.StringIO(_text(file), newline=""), restkey="")
    try:
        for row in reader:
            number = reader.line_num
            yield number, "has more columns than the first line; quote captions that hold commas" if "" in row else row
    except csv.Error as error:
        yield reader.line_num, f"is not CSV ({error}); correct it"
