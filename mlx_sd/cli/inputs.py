"""The files that a command reads: what it writes must be none of them, by whatever name or link."""

import argparse
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..core.errors import InputError
from ..core.files import is_file, is_folder
from ..hires_setting import MODES
from ..request import Request
from .prompt_list import STDIN

_STEP = re.compile(r"(.*)-\d{3,}\.png")  # of --preview


class Inputs:
    """The files and folders that a command line names as inputs."""

    def __init__(self, arguments: argparse.Namespace, requests: Iterable[Request]):
        sources: dict[str, str] = {}  # path -> the option that names it
        for flag in ("from_image", "prompts"):
            if (path := getattr(arguments, flag)) is not None and path != STDIN:
                sources.setdefault(str(path), f"--{flag.replace('_', '-')}")
        for request in requests:
            for flag, text in _sources(request):
                sources.setdefault(text, flag)
        self._sources = sources
        self._listed: dict[Path, dict[str, list[Path]]] = {}
        self._files: dict[tuple[int, int], str] | None = None  # device and inode -> option and path

    def check(self, path: Path, option: str) -> None:
        """Raises InputError where writing to `path` would replace an input; option: what names the path."""
        if (source := self._source_at(path)) is not None:
            raise InputError(f"{option} {path} would overwrite {source}; choose another name")

    def steps(self, folder: Path, stem: str) -> Sequence[Path]:
        """Returns the files of a folder that have names of step images which --preview calls after `stem`.

        The folder is read once.
        """
        if folder not in self._listed:
            paths = self._listed[folder] = {}
            for path in folder.iterdir() if is_folder(folder) else ():
                if match := _STEP.fullmatch(path.name):
                    paths.setdefault(match[1], []).append(path)
        return self._listed[folder].get(stem, ())

    def _source_at(self, path: Path) -> str | None:
        try:
            identity = _identity(path)
        except OSError:  # nothing is there
            return None
        if self._files is None:
            self._files = {}
            for text, flag in self._sources.items():
                for file in _files(Path(os.path.expanduser(text))):  # noqa: PTH111 - ~nobody is no error
                    self._files.setdefault(_identity(file), f"{flag} {file}")
        return self._files.get(identity)


def _sources(request: Request) -> Iterator[tuple[str, str]]:
    """Yields the options of a request that name files, with the paths."""
    for flag in ("init_image", "mask", "model", "refiner", "coreml", "vae"):
        if isinstance(value := getattr(request, flag), str):
            yield f"--{flag.replace('_', '-')}", value
    if request.hires_mode and request.hires_mode not in MODES:
        yield "--hires-mode", request.hires_mode
    if request.schedule and request.schedule.endswith(".json"):
        yield "--schedule", request.schedule
    for adapter in request.adapters:
        yield from (("--adapter", source) for source in (adapter.model, adapter.image) if isinstance(source, str))
    for prompt in request.ip_adapters:
        sources = (prompt.model, *prompt.images, prompt.mask, request.ip_encoder)
        yield from (("--ip-adapter", source) for source in sources if isinstance(source, str))
    for lora in request.loras:
        yield "--lora", lora.path
    for embedding in request.embeddings:
        yield "--embedding", embedding.path
    for control in request.controls:
        yield "--control", control.model
        if isinstance(control.image, str):
            yield "--control", control.image


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _files(path: Path) -> Iterator[Path]:
    """Yields a file, or the files of a folder; nothing where there is neither, as of hub ids."""
    if is_file(path):
        yield path
    elif is_folder(path):
        for folder, _, names in os.walk(path):
            yield from (file for name in names if is_file(file := Path(folder, name)))
