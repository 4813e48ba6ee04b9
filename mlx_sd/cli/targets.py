"""Where pictures go: the paths that --output means."""

import os
import re
import string
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import InputError
from ..core.files import check_writable, is_folder
from ..core.suggestions import did_you_mean
from ..metadata import picture_file
from ..request import Request

_COMPLETED = {"model", "sampler", "steps", "width", "height"}  # fields that the checkpoint decides
_DEFAULT = "{prompt}-{seed}.png"
_LONGEST_VALUE, _LONGEST_NAME = 120, 230  # bytes; file systems take 255, and a temporary name is longer


class Picture(NamedTuple):
    """What a name may say about a picture."""

    request: Request  # its settings
    label: int | str | None  # its class, as the user says it
    prompt: str | None
    seed: int
    number: int  # in the run, from 1
    line: int  # the number of its prompt or class, from 1


class Targets:
    """The names of one --output: a file, a folder, or a pattern such as "{seed}-{prompt}.png".

    prompts, pictures: how many there are, in the run. makes_folder: whether the folder of a name that is no pattern is
    made too, as a folder and those of a pattern always are. Raises InputError where the output cannot be written, is
    in no format that pictures are written in, or has an unknown field.
    """

    def __init__(self, output: str | None, prompts: int, pictures: int, makes_folder: bool = False):
        self._text, self._prompts, self._pictures = output, prompts, pictures
        path = Path(output or ".")
        present = is_folder(path)
        folder = output is None or present or output.endswith(("/", "\\"))
        self.is_numbered = folder  # names chosen here avoid what exists
        pattern = "{" in (output or "") and not present
        self._pattern: str | None = None
        if pattern:
            self._pattern = f"{output}{_DEFAULT}" if folder else output
        elif folder:
            self._pattern = f"{_escaped(str(path))}/{_DEFAULT}"
        self.fields = self._check_fields() if self._pattern else set()
        self._path = Path(self._pattern) if pattern and self._pattern else path
        if not folder:
            self._check_suffix(output or "")
        if not pattern:
            parent = path if folder else path.parent
            # A folder is made when there is something to put into it.
            check_writable(parent, "--output", must_exist=not (folder or makes_folder))
        else:
            check_writable(_fixed_parent(self._path), "--output")

    @property
    def needs_completed(self) -> bool:
        """Whether the names say something that the checkpoint decides."""
        return bool(self.fields & _COMPLETED)

    @property
    def folder(self) -> Path:
        """The folder that all names are in, or below: of a pattern, up to its first field."""
        if self._pattern:
            return _fixed_parent(Path(self._pattern))
        return self._path.parent

    def path(self, picture: Picture) -> Path:
        """Returns the name of a picture, whatever exists there."""
        path = self._formatted(self._pattern, picture) if self._pattern else self._plain(picture)
        if len(os.fsencode(path.name)) > _LONGEST_NAME:
            raise InputError(f"--output {self._text}: the name {path.name[:40]}... is too long; give a shorter one")
        return path

    def _plain(self, picture: Picture) -> Path:
        if self._pictures == 1:
            return self._path
        place = f"-{picture.line}" if self._prompts > 1 else ""
        return self._path.with_name(f"{self._path.stem}{place}-{picture.seed}{self._path.suffix}")

    def _check_fields(self) -> set[str]:
        fields = set()
        try:
            parts = list(string.Formatter().parse(self._pattern or ""))
        except ValueError as error:
            raise InputError(f"--output {self._text}: {error}; write a brace of the name twice, {{{{ or }}}}") from None
        for _, field, form, conversion in parts:
            if field is None:
                continue
            if field not in FIELDS or conversion:
                raise InputError(
                    f"--output {self._text}: there is no field {{{field}}};{did_you_mean(field, FIELDS)} "
                    f"there are {', '.join(FIELDS)}"
                )
            if form and not (field not in ("prompt", "model", "sampler", "date") and re.fullmatch(r"0?\d", form)):
                raise InputError(
                    f"--output {self._text}: {{{field}:{form}}} is not a width of a number, as {{seed:05}}"
                )
            fields.add(field)
        return fields

    def _check_suffix(self, output: str) -> None:
        if Path(output).suffix.lower() not in picture_file.FORMATS:
            raise InputError(
                f"--output {output}: pictures are written as {', '.join(picture_file.FORMATS)}; give a name that ends "
                "in one of them, or a folder that ends in /"
            )

    def _formatted(self, pattern: str, picture: Picture) -> Path:
        return Path(pattern.format_map({field: _VALUES[field](picture) for field in self.fields}))


class Names:
    """The names of a run, each of which is taken once."""

    def __init__(self) -> None:
        self._taken: set[Path] = set()
        self._next: dict[Path, int] = {}  # of names that were numbered: the first number that is not taken

    def take(self, path: Path) -> bool:
        """Takes a name; False where another picture of the run has it."""
        if path in self._taken:
            return False
        self._taken.add(path)
        return True

    def number(self, path: Path, usable: Callable[[Path], bool]) -> Path:
        """Takes the first of NAME.png, NAME.2.png, ... that no picture of the run has and that is usable."""
        i = self._next.get(path, 1)
        while (candidate := _numbered(path, i)) in self._taken:
            i += 1
        self._next[path] = i
        while candidate in self._taken or not usable(candidate):
            i += 1
            candidate = _numbered(path, i)
        self._taken.add(candidate)
        return candidate


def exists(path: Path, beside: Iterable[str] = ()) -> bool:
    """Returns whether a path is there, be it a dangling link, or a file that is called after it.

    beside: the ends of such names: with "-steps.png", of a.png a-steps.png counts too.
    """
    return os.path.lexists(path) or any(os.path.lexists(path.with_name(f"{path.stem}{end}")) for end in beside)


@lru_cache(maxsize=1024)
def safe(text: str) -> str:
    """Returns the words of a text in lower case, joined by dashes: a file name without a suffix."""
    words = "-".join(re.findall(r"\w+", text.lower()))[:48]
    return _shortened(words).strip("-") or "picture"


def _title(picture: Picture) -> str:
    """Returns the words that a picture's file is named after."""
    if picture.label is not None:
        return safe(f"class {picture.label}")
    return safe(picture.prompt or "picture")


def _model(picture: Picture) -> str:
    name = re.sub(r"[^\w.-]+", "-", Path(picture.request.model).name.removesuffix(".safetensors"))
    return _shortened(name).strip(".-") or "model"


def _shortened(words: str) -> str:
    """Returns the beginning of a text that a file's name has room for, of the characters that the system's names have.

    In the locale C these may be those of ASCII alone.
    """
    encoding = sys.getfilesystemencoding()
    return words.encode(encoding, "ignore")[:_LONGEST_VALUE].decode(encoding, "ignore")


_VALUES: Mapping[str, Callable[[Picture], Any]] = {
    "prompt": _title,
    "seed": lambda picture: picture.seed,
    "number": lambda picture: picture.number,
    "model": _model,
    "sampler": lambda picture: picture.request.sampler,
    "steps": lambda picture: picture.request.steps,
    "width": lambda picture: picture.request.width,
    "height": lambda picture: picture.request.height,
    "date": lambda _: date.today().isoformat(),
}
FIELDS = tuple(_VALUES)


def _numbered(path: Path, i: int) -> Path:
    return path if i == 1 else path.with_name(f"{path.stem}.{i}{path.suffix}")


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _fixed_parent(path: Path) -> Path:
    """Returns the folder of a pattern up to its first field."""
    parents = [parent for parent in path.parents if "{" not in str(parent)]
    return parents[0] if parents else Path()
