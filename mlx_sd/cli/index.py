"""--index: a line of JSON for each picture of a folder, in the order of the prompts, and a contact sheet of them."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import contact_sheet
from ..core.errors import Failure, InputError
from ..core.files import atomic_file, is_file, is_folder, sha256
from .plan import Draft

INDEX, SHEET = "index.jsonl", "contact-sheet.png"
_KEYS = {"name", "sha256", "seed"}  # of each line


class Index:
    """The two files about the pictures of a run, which lie in its folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.path, self.sheet = folder / INDEX, folder / SHEET

    def check(self, drafts: Sequence[Draft]) -> None:
        """Raises InputError where one of the files would replace another file, or a picture of the run."""
        checks = {self.path: _is_index, self.sheet: contact_sheet.is_contact_sheet}
        for path, is_ours in checks.items():
            if os.path.lexists(path) and not is_ours(path):
                raise InputError(f"{path} exists and is not of an earlier --index; move it, or choose another --output")
        named = next((draft for draft in drafts if draft.target in checks), None)
        if named is not None:
            raise InputError(f"{named.template.where}: {named.target} is the name of a file of --index; choose another")

    def write(self, drafts: Sequence[Draft]) -> list[Path]:
        """Writes both files about the pictures that are there; returns those files, none where there is no picture.

        Raises Failure where a picture cannot be read, or a file not be written.
        """
        present = [draft for draft in drafts if is_file(draft.target) and draft.target.stat().st_size]
        if not present:
            return []
        try:
            lines = "".join(f"{json.dumps(self._entry(draft), ensure_ascii=False)}\n" for draft in present)
            with atomic_file(self.path) as file:
                file.write(lines.encode("utf-8", "surrogatepass"))
            contact_sheet.write(self.sheet, [draft.target for draft in present])
        except OSError as error:
            raise Failure(f"the index in {self._folder} cannot be written: {error.strerror or error}") from None
        return [self.path, self.sheet]

    def _entry(self, draft: Draft) -> dict[str, Any]:
        picture, path = draft.picture, draft.target
        inside = path.is_relative_to(self._folder)
        label = {} if picture.label is None else {"class": picture.label}
        return {
            "name": (path.relative_to(self._folder) if inside else path).as_posix(),
            "sha256": sha256(path),
            "seed": picture.seed,
            **label,
            "prompt": picture.prompt,
        }


def of(arguments: argparse.Namespace, together: bool) -> Index | None:
    """Returns the index that a command line asks for; None without one.

    together: of several ranks, whose runs have one wherever --output is a folder. InputError where --index is asked for
    and --output is none.
    """
    output = arguments.output
    folder = output is not None and "{" not in output and (output.endswith(("/", "\\")) or is_folder(Path(output)))
    if arguments.index and (not folder or arguments.grid is not None):
        advice = "leave one of the two out" if arguments.grid is not None else "give one, as --output pictures/"
        subject = "--grid has a sheet of its own" if arguments.grid is not None else "--index is written into a folder"
        raise InputError(f"{subject}; {advice}")
    return Index(Path(output)) if folder and (arguments.index or together) else None


def _is_index(path: Path) -> bool:
    """Returns whether a file is an index, by its first line, or empty."""
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline()
            entry = json.loads(line) if line else dict.fromkeys(_KEYS)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and entry.keys() >= _KEYS
