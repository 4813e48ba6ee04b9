"""What a folder or a list of pictures names, before any picture is opened."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...core.errors import InputError
from . import captions


class Entry(NamedTuple):
    """A picture that is named somewhere, with its caption."""

    path: Path
    caption: str
    repeats: int = 1
    prior: bool = False


@dataclass
class Listing:
    """Entries, and one line for each thing that is wrong or remarkable."""

    convention: str
    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def extend(self, other: "Listing") -> None:
        """Adds the entries and lines of another listing to this one."""
        self.entries += other.entries
        self.problems += other.problems
        self.warnings += other.warnings


def plain(
    folder: Path,
    caption: str | None,
    *,
    repeats: int = 1,
    prior: bool = False,
    suffixes: tuple[str, ...] = captions.CAPTION_SUFFIXES,
    prefix: str = "",
    suffix: str = "",
    flag: str = "--caption",
) -> Listing:
    """Lists the pictures of one folder, each with its caption file.

    caption: of pictures without a caption file; None makes a problem of each. prefix, suffix: words before and behind
    every caption. flag: the option that gives `caption`, for messages.
    """
    listing = Listing("captions in text files")
    owners = captions.pictures(folder)
    for path in owners:
        file = captions.beside(path, suffixes)
        if file is None and caption is None:
            listing.problems.append(
                f"{path} has no caption; write it into {path.stem}{suffixes[0]} beside it, or give {flag} for all"
            )
            continue
        try:
            text = (caption or "") if file is None else captions.read(file)
        except InputError as error:
            listing.problems.append(str(error))
            continue
        listing.entries.append(Entry(path, captions.in_one_line(f"{prefix} {text} {suffix}"), repeats, prior))
    if lost := captions.orphans(folder, owners):
        listing.warnings.append(grouped("captions belong to no picture", lost))
    return listing


def grouped(remark: str, paths: list[Path]) -> str:
    """Returns one line for all files of which the same is to be said: "3 pictures: ... (a.png, b.png, c.png)"."""
    names = ", ".join(path.name for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{len(paths)} file{'s' * (len(paths) > 1)}: {remark} ({names}{more})"
