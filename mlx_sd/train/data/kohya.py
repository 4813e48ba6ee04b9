"""The conventions of kohya's sd-scripts: folders `10_sks dog`, and configs of datasets in TOML or JSON.

The metadata of fine-tuning, which a config may name, is read in `kohya_metadata`.
"""

import difflib
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core import files
from ...core.errors import InputError
from . import captions, kohya_metadata
from .listing import Listing, grouped, plain

PRIORS = ("reg", "regularization", "class")  # folders beside those of the instances
_INSTANCES = "img"  # the folder that kohya_ss' GUI makes for them
_NAME = re.compile(r"(\d+)_(.*)", re.DOTALL)
_TAKEN = (
    "image_dir",
    "metadata_file",
    "num_repeats",
    "class_tokens",
    "is_reg",
    "caption_extension",
    "caption_prefix",
    "caption_suffix",
)
_MOST_REPEATS = 10_000
_SIMILAR = 0.85  # of a misspelled key to one that is taken

# Key -> whether a value fits, and what it must be. The others are text.
_TEXT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str)), "text"
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_repeats": (lambda value: type(value) is int and 1 <= value <= _MOST_REPEATS, f"1 to {_MOST_REPEATS}"),
    "is_reg": (lambda value: isinstance(value, bool), "true or false"),
}


def holds_folders(folder: Path) -> bool:
    """Returns whether a folder holds some of the form `10_sks dog` that have pictures."""
    return any(_repeated(root) for root in (folder, folder / _INSTANCES))


def read_folders(folder: Path, caption: str | None, prior_caption: str | None) -> Listing:
    """Lists the pictures of folders `REPEATS_class words`; those below `reg` are pictures of the class.

    A caption file replaces the class words, and so does `caption` (for pictures of the class, `prior_caption`).
    """
    listing = Listing("kohya folders")
    root = folder if _repeated(folder) else folder / _INSTANCES
    for subfolder in _repeated(root):
        listing.extend(_of_repeated(subfolder, caption, prior=False))
    for name in PRIORS:
        if files.is_folder(folder / name):
            listing.extend(read_priors(folder / name, prior_caption))
    if strays := captions.pictures(root):
        listing.warnings.append(grouped("beside the folders, and not used", strays))
    return listing


def read_priors(folder: Path, caption: str | None) -> Listing:
    """Lists pictures of the class, that lie in a folder itself or in its folders `REPEATS_class words`."""
    subfolders = _repeated(folder)
    if not subfolders:
        return plain(folder, caption, prior=True, flag="--prior-caption")
    listing = Listing("kohya folders")
    for subfolder in subfolders:
        listing.extend(_of_repeated(subfolder, caption, prior=True))
    return listing


def _repeated(folder: Path) -> list[Path]:
    """Lists the folders of the form `10_sks dog` in a folder that have pictures, by name."""
    if not files.is_folder(folder):
        return []
    named = (path for path in sorted(folder.iterdir()) if _NAME.fullmatch(path.name) and files.is_folder(path))
    return [path for path in named if captions.pictures(path)]


def _of_repeated(folder: Path, caption: str | None, prior: bool) -> Listing:
    match = _NAME.fullmatch(folder.name)
    assert match  # as `_repeated` lists no other
    repeats, words = int(match[1]), captions.in_one_line(match[2])
    listing = Listing("kohya folders")
    if repeats > _MOST_REPEATS:  # such as a date
        listing.problems.append(f"{folder} would repeat its pictures {repeats} times; rename it, as in 10_{words}")
        return listing
    if not repeats:
        listing.warnings.append(f"{folder} repeats its pictures 0 times, so they are not used")
        return listing
    flag = "--prior-caption" if prior else "--caption"
    return plain(folder, caption or words or None, repeats=repeats, prior=prior, flag=flag)


def read_config(file: Path, caption: str | None, prior_caption: str | None) -> Listing:
    """Reads a config of datasets: `[[datasets]]` with `[[datasets.subsets]]`, in TOML or JSON; or metadata in JSON.

    Folders are looked for beside the file, then in the current folder. Keys that belong to the training, not to the
    data, are named in a warning. Raises InputError for keys that are misspelled and values of the wrong kind.
    """
    config = _parsed(file)
    if file.suffix.lower() == ".json" and kohya_metadata.is_metadata(config):
        return kohya_metadata.read(file, caption)
    general = _table(file, config.get("general", {}), "general")
    listing = Listing("kohya config")
    unused: set[str] = set()
    for dataset in _tables(file, config.get("datasets"), "datasets"):
        for subset in _tables(file, dataset.get("subsets"), "datasets.subsets"):
            values = {key: value for table in (general, dataset, subset) for key, value in table.items()}
            del values["subsets"]
            unused |= values.keys() - {*_TAKEN}
            _check(file, values)
            prior = bool(values.get("is_reg", False))
            words = (prior_caption if prior else caption) or values.get("class_tokens")
            listing.extend(_of_subset(file, values, words, prior))
    if unused:
        listing.warnings.append(f"{file}: not read here: {', '.join(sorted(unused))}; give them as options")
    return listing


def _of_subset(file: Path, values: dict[str, Any], words: str | None, prior: bool) -> Listing:
    """Lists the pictures of one subset: those of its metadata, or of its folder."""
    around = {"prefix": values.get("caption_prefix", ""), "suffix": values.get("caption_suffix", "")}
    repeats = values.get("num_repeats", 1)
    folder = _folder(file, values["image_dir"]) if "image_dir" in values else None
    if "metadata_file" in values:
        beside, here = file.parent / values["metadata_file"], Path(values["metadata_file"])
        metadata = here if files.is_file(here) and not files.is_file(beside) else beside
        return kohya_metadata.read(metadata, words, folder, repeats=repeats, **around)
    assert folder is not None  # as `_check` asks for one of the two
    extension = values.get("caption_extension")
    suffixes = ("." + extension.lstrip("."),) if extension else captions.CAPTION_SUFFIXES
    flag = "--prior-caption" if prior else "--caption"
    return plain(folder, words, repeats=repeats, prior=prior, suffixes=suffixes, flag=flag, **around)


def _parsed(file: Path) -> dict[str, Any]:
    """Returns the contents of a TOML or JSON file; TOML needs a parser that Python has from 3.11 on."""
    if file.suffix.lower() == ".json":
        return files.read_json(file)
    for name in ("tomllib", "tomli"):
        try:
            parser: Any = importlib.import_module(name)
        except ImportError:
            continue
        try:
            config: dict[str, Any] = parser.loads(file.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file} is not TOML: {error}") from None
        return config
    raise InputError(f"{file} is TOML, which needs Python 3.11 or `pip install tomli`; or write the same as JSON")


def _table(file: Path, value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{file}: {name} must be a table, not {value!r}")
    return value


def _tables(file: Path, value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{file} has no [[{name}]]; write one with the folder of the pictures")
    return [_table(file, entry, name) for entry in value]


def _check(file: Path, values: dict[str, Any]) -> None:
    """Raises InputError for a misspelled key, a value of the wrong kind, and a subset without a folder."""
    for key, value in values.items():
        fits, noun = _VALUES.get(key, _TEXT)
        if key in _TAKEN and not fits(value):
            raise InputError(f"{file}: {key} must be {noun}, not {value!r}")
        if key not in _TAKEN and (match := difflib.get_close_matches(key, _TAKEN, 1, _SIMILAR)):
            raise InputError(f"{file}: unknown key {key}; did you mean {match[0]}?")
    if "image_dir" not in values and "metadata_file" not in values:
        raise InputError(f"{file}: a subset has no image_dir; give the folder of its pictures")
    if values.get("is_reg") and "metadata_file" in values:
        raise InputError(f"{file}: pictures of the class have no metadata_file; give their image_dir alone")


def _folder(file: Path, name: str) -> Path:
    places = (file.parent / name, Path(name))
    if (folder := next((path for path in places if files.is_folder(path)), None)) is None:
        raise InputError(f"{file}: image_dir {name} is not a folder; give it from the folder of the config")
    return folder
