"""Checkpoints on the hub: which of a repository's files are needed, and where they lie after the download."""

import re
from pathlib import Path

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import read_json

from ..files import hub
from .checkpoint import PARTS, names_of
from .diffusers_folder import STEMS, infixes

_CONFIGS = ["model_index.json", "config.json", "scheduler_config.json", "*/*.json", "tokenizer*/*.txt"]


def fetch(repository: str, variant: str | None = None) -> Path:
    """Downloads a checkpoint's configs and safetensors (its `variant` where it has one) and returns its folder.

    Of a repository that is no diffusers folder but holds one single file, that file is downloaded and returned.
    Cache and errors are those of `hub.download`.
    """

    def select(files: list[str]) -> list[str]:
        """Picks the files and patterns to download."""
        if "model_index.json" in files:
            return _CONFIGS + weights(files, variant)
        if _is_network(files):
            return ["config.json", "*.safetensors.index*.json", *weights(files, variant)]
        return [single_file(repository, files)]

    folder, selected = hub.download(repository, select)
    if selected is None and (lacking := _lacking(folder)):
        raise InputError(
            f"the download of {repository} is not complete ({lacking} is missing) and the hub cannot be reached; "
            "connect and run the command again: what is complete is kept"
        )
    names = [path.name for path in folder.glob("*")]
    if "model_index.json" in names or _is_network(names) or (selected and len(selected) > 1):
        return folder
    return folder / single_file(repository, selected or [p.name for p in folder.glob("*.safetensors")])


def _is_network(files: list[str]) -> bool:
    """Returns whether a repository's files are those of one network on its own, as of a ControlNet."""
    return "model_index.json" not in files and "config.json" in files and bool(weights(files, None))


def _lacking(folder: Path) -> str | None:
    """Returns a part of a checkpoint that a download which stopped has left out; None where all is there."""
    index = folder / "model_index.json"
    if not index.is_file():
        return None if any(folder.glob("*.safetensors")) else "the checkpoint"
    listed = [name for name, entry in read_json(index).items() if isinstance(entry, list) and entry[1:] != [None]]
    parts = [name for part in PARTS for name in names_of(part) if name in listed]
    return next((name for name in parts if not any((folder / name).glob("*.safetensors"))), None)


def single_file(repository: str, files: list[str]) -> str:
    """Returns the one single-file checkpoint among a repository's files; InputError where there is none or several."""
    candidates = sorted(file for file in files if "/" not in file and file.endswith(".safetensors"))
    if len(candidates) != 1:
        hint = f"; download one of {', '.join(candidates[:4])} and give --model its path" if candidates else ""
        raise InputError(f"{repository} is neither a diffusers folder nor one single .safetensors file{hint}")
    return candidates[0]


def weights(files: list[str], variant: str | None) -> list[str]:
    """Returns the files that `diffusers_folder.read` would read: of each part, the best variant there is.

    A repository of one network has its weights in no folder.
    """
    selected: list[str] = []
    parts = [f"{name}/" for part in PARTS for name in names_of(part)]
    alone = "scheduler_config.json" in files or not any(file.startswith(tuple(parts)) for file in files)
    for place in [""] if alone else parts:
        for infix in infixes(variant):
            shard = re.compile(rf"{place}({'|'.join(STEMS)}){re.escape(infix)}(-\d+-of-\d+)?\.safetensors")
            matching = [file for file in files if shard.fullmatch(file)]
            if matching:
                selected += matching
                break
    return selected
