"""Checkpoints by their hub id."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from mlx_sd.core.errors import InputError

from . import adapter, checkpoint

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# The base of whatever the HTTP library under huggingface_hub raises, connection errors included.
_HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]
_VOCABULARY, _VOCABULARY_FILES = "openai/clip-vit-large-patch14", ["vocab.json", "merges.txt"]
_CONFIGS = ["model_index.json", "config.json", "scheduler_config.json", "*/*.json", "tokenizer*/*.txt"]


def is_id(model: str) -> bool:
    """Whether a text has the form owner/name, and is no file's name."""
    return _HUB_ID.fullmatch(model) is not None and not model.endswith((".safetensors", ".ckpt", ".gguf"))


def fetch(repository: str, variant: str | None = None) -> Path:
    """Downloads a checkpoint's configs and safetensors (its `variant` where it has one) and returns its folder.

    Of a repository that is no diffusers folder but has one single file, that file, and returns it.
    What is in the hub's own cache is not downloaded again; without network the cache alone is used. Raises
    InputError for an unknown repository, and where there is neither network nor cache.
    """
    try:
        with _explained(repository):
            files = _files(repository)
            if "model_index.json" in files:
                return Path(snapshot_download(repository, allow_patterns=_CONFIGS + _weights(files, variant)))
            file = _single(repository, files)
            return Path(snapshot_download(repository, allow_patterns=[file])) / file
    except (_HTTPError, OSError):  # no connection
        folder = _cached(repository)
    if (folder / "model_index.json").is_file():
        return folder
    return folder / _single(repository, [p.name for p in folder.glob("*.safetensors")])


def fetch_adapter(repository: str, file: str | None = None) -> Path:
    """Downloads an adapter, the `file` of a repository or the only one there is, and returns where it lies.

    Cache and errors are those of `fetch`.
    """
    try:
        with _explained(repository):
            file = file or adapter.choose(_files(repository), repository)
            return Path(snapshot_download(repository, allow_patterns=[file, adapter.CONFIG])) / file
    except (_HTTPError, OSError):
        folder = _cached(repository)
        return folder / file if file else folder


def _files(repository: str) -> list[str]:
    return [file.rfilename for file in HfApi().model_info(repository, timeout=10).siblings or []]


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    try:
        yield
    except GatedRepoError:
        raise InputError(f"{repository} asks you to accept its licence on the hub, then `hf auth login`") from None
    except RepositoryNotFoundError:
        raise InputError(f"{repository} is neither a folder here nor a repository on the hub (or is private)") from None


def vocabulary(checkpoint: str) -> Path:
    """The folder of CLIP's vocabulary, one for every kind of checkpoint, which single files leave out.

    From the hub's cache, or downloaded into it. Raises InputError where there is neither cache nor network.
    """
    for cached in (True, False):
        try:
            folder = Path(snapshot_download(_VOCABULARY, allow_patterns=_VOCABULARY_FILES, local_files_only=cached))
        except (_HTTPError, OSError, LocalEntryNotFoundError):
            continue
        if all((folder / name).is_file() for name in _VOCABULARY_FILES):
            return folder
    raise InputError(
        f"{checkpoint} has no tokenizer and the hub's {_VOCABULARY} cannot be reached; convert it with "
        "--tokenizer FOLDER, one with vocab.json and merges.txt, such as any diffusers folder's tokenizer"
    )


def _cached(repository: str) -> Path:
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        raise InputError(
            f"{repository} is not on this machine and the hub cannot be reached; connect once to download it, "
            "or give the path of what you have"
        ) from None


def _single(repository: str, files: list[str]) -> str:
    """The one single-file checkpoint among a repository's files."""
    found = sorted(file for file in files if "/" not in file and file.endswith(".safetensors"))
    if len(found) != 1:
        way_out = f"; download one of {', '.join(found[:4])} and give --model its path" if found else ""
        raise InputError(f"{repository} is neither a diffusers folder nor one single .safetensors file{way_out}")
    return found[0]


def _weights(files: list[str], variant: str | None) -> list[str]:
    """The files that `checkpoint.read` would read: of each part, the best variant there is."""
    found = []
    flat = "scheduler_config.json" in files
    for place in [""] if flat else [f"{name}/" for part in checkpoint.PARTS for name in checkpoint.names_of(part)]:
        for infix in checkpoint.infixes(variant):
            shard = re.compile(rf"{place}({'|'.join(checkpoint.STEMS)}){re.escape(infix)}(-\d+-of-\d+)?\.safetensors")
            matching = [file for file in files if shard.fullmatch(file)]
            if matching:
                found += matching
                break
    return found
