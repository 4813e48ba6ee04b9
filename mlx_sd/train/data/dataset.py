"""A folder of pictures with captions, in any of four conventions -> examples that are known to be usable."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core import files, terminal
from ...core.errors import InputError
from . import captions, kohya, metadata_list, picture_file
from .buckets import Size
from .listing import Entry, Listing, grouped, plain


@dataclass(frozen=True)
class Example:
    """A picture that can be trained on, with its caption."""

    path: Path
    caption: str
    repeats: int  # how often an epoch has it
    prior: bool  # a picture of the class: kohya's reg folders, DreamBooth's class pictures
    size: Size  # turned as its EXIF says
    sha256: str  # of the file's bytes


@dataclass(frozen=True)
class Dataset:
    """The examples of a folder, in a fixed order."""

    examples: tuple[Example, ...]
    convention: str  # by which the folder was read
    warnings: tuple[str, ...]  # one line each

    @property
    def fingerprint(self) -> str:
        """Returns a hash of contents, captions, repeats and order, by which a resumed training knows its data."""
        rows = [(entry.sha256, entry.caption, entry.repeats, entry.prior) for entry in self.examples]
        return hashlib.sha256(repr(rows).encode()).hexdigest()


def read(
    folder: str | os.PathLike[str],
    *,
    caption: str | None = None,
    caption_column: str | None = None,
    prior: str | os.PathLike[str] | None = None,
    prior_caption: str | None = None,
    minimum_side: int = picture_file.MINIMUM_SIDE,
    maximum_aspect: float = picture_file.MAXIMUM_ASPECT,
) -> Dataset:
    """Reads a folder of training data and opens every picture in it once.

    folder: with metadata.jsonl or metadata.csv (diffusers), train.jsonl (mlx-examples), folders `10_sks dog` (kohya),
    or pictures with `NAME.txt` or `NAME.caption` beside them (mflux and others); or a file of kohya's, its config in
    TOML or JSON, or metadata in JSON. caption: of pictures that have none (DreamBooth's instance prompt); it replaces
    kohya's class words. caption_column: of a list, where it is not the convention's. prior: a folder of pictures of the
    class, and prior_caption the caption of those that have none. minimum_side, maximum_aspect: as of
    `picture_file.read`.

    Raises InputError with one line for each picture, line or caption that cannot be used, all at once.
    """
    place = Path(folder)
    caption, prior_caption = (captions.in_one_line(text or "") or None for text in (caption, prior_caption))
    listing = _listing(place, caption, prior_caption, caption_column)
    if prior is not None:
        _check_folder(Path(prior))
        listing.extend(kohya.read_priors(Path(prior), prior_caption))
    listing.entries = _without_repetition(listing)
    examples = _examples(listing, minimum_side, maximum_aspect)
    if listing.problems:
        count = len(listing.problems)
        lines = "\n".join(f"  {line}" for line in listing.problems)
        raise InputError(f"{place}: {count} thing{'s' * (count > 1)} to correct before training:\n{lines}")
    instances = [example for example in examples if not example.prior]
    if not instances:
        raise InputError(f"{place}: {_nothing(place)}")
    if len(instances) == 1:
        listing.warnings.append(f"{place} has one picture alone; what is learned will repeat it")
    return Dataset(tuple(examples), listing.convention, tuple(listing.warnings))


def _listing(place: Path, caption: str | None, prior_caption: str | None, caption_column: str | None) -> Listing:
    """Returns what a folder names, by the first convention whose mark it bears; InputError where it bears several."""
    if files.is_file(place) and place.suffix.lower() in (".toml", ".json"):
        return kohya.read_config(place, caption, prior_caption)
    _check_folder(place)
    lists = [name for name in metadata_list.LISTS if files.is_file(place / name)]
    if len(lists) > 1:
        raise InputError(f"{place} has {' and '.join(lists)}; keep one of them")
    if lists:
        return metadata_list.read(place / lists[0], caption, caption_column)
    if caption_column:
        raise InputError(f"--caption-column names a column of a list, and {place} has none; leave it out")
    if kohya.holds_folders(place):
        return kohya.read_folders(place, caption, prior_caption)
    listing = plain(place, caption)
    for name in kohya.PRIORS if listing.entries or listing.problems else ():
        if files.is_folder(place / name):
            listing.extend(kohya.read_priors(place / name, prior_caption))
    return listing


def _check_folder(place: Path) -> None:
    if not os.path.lexists(place):
        raise files.missing(place)
    if not files.is_folder(place):
        raise InputError(f"{place} is not a folder; give the folder of the pictures")


def _without_repetition(listing: Listing) -> list[Entry]:
    """Returns the entries; a file that two of them name becomes a problem."""
    entries: dict[str, Entry] = {}
    for entry in listing.entries:
        if entries.setdefault(str(entry.path.absolute()), entry) is not entry:
            listing.problems.append(f"{entry.path} is named twice; leave one of the two out")
    return list(entries.values())


def _examples(listing: Listing, minimum_side: int, maximum_aspect: float) -> list[Example]:
    """Opens every picture; adds the problems and the remarks to the listing."""
    examples: list[Example] = []
    remarks: dict[str, list[Path]] = {}
    with terminal.progress(sum(_bytes(entry.path) for entry in listing.entries), "check") as advance:
        for entry in listing.entries:
            try:
                picture = picture_file.read(entry.path, minimum_side, maximum_aspect)
            except InputError as error:
                listing.problems.append(str(error))
            else:
                for remark in picture.remarks:
                    remarks.setdefault(remark, []).append(entry.path)
                digest = files.sha256(entry.path)
                examples.append(Example(*entry, size=picture.image.size, sha256=digest))
            advance(_bytes(entry.path))
    listing.warnings += [grouped(remark, paths) for remark, paths in remarks.items()]
    listing.warnings += _copies(examples)
    return examples


def _copies(examples: Sequence[Example]) -> list[str]:
    """Returns a line for each group of files that are the same picture."""
    groups: dict[str, list[Path]] = {}
    for example in examples:
        groups.setdefault(example.sha256, []).append(example.path)
    return [grouped("the same picture", paths) for paths in groups.values() if len(paths) > 1]


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _nothing(place: Path) -> str:
    """Returns the end of the error for a place without pictures, with folders below it that have some."""
    if not files.is_folder(place):
        return "names no picture to train on; add a subset with is_reg = false"
    below = [path.name for path in sorted(place.iterdir()) if files.is_folder(path) and captions.pictures(path)]
    if below:
        return f"no picture is in the folder itself; give one of its folders ({', '.join(below[:3])})"
    return f"no picture is in it; put some there ({', '.join(sorted(picture_file.SUFFIXES)[:8])})"
