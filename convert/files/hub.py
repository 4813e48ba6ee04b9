"""Downloads from the Hugging Face hub, and what its cache holds when there is no connection."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from mlx_sd.core.errors import InputError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# The base of whatever the HTTP library under huggingface_hub raises, connection errors included.
_HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]
_VOCABULARY, _VOCABULARY_FILES = "openai/clip-vit-large-patch14", ["vocab.json", "merges.txt"]


def is_id(model: str) -> bool:
    """Returns whether a text has the form owner/name and is no file's name."""
    return _HUB_ID.fullmatch(model) is not None and not model.endswith((".safetensors", ".ckpt", ".gguf"))


def download(repository: str, select: Callable[[list[str]], list[str]]) -> tuple[Path, list[str] | None]:
    """Downloads what `select` picks of a repository's files; returns the folder and the picked names or patterns.

    The hub's own cache is used where it holds them. Without a connection the folder is the cache's and the names are
    None. Raises InputError for an unknown repository, and where there is neither connection nor cache.
    """
    try:
        with _explained(repository):
            selected = select(_files(repository))
            return Path(snapshot_download(repository, allow_patterns=selected)), selected
    except (_HTTPError, OSError):  # no connection
        return _cached(repository), None


def vocabulary(checkpoint: str) -> Path:
    """Returns the folder of CLIP's vocabulary, one for every kind of checkpoint, which single files leave out.

    From the hub's cache, or downloaded into it. Raises InputError where there is neither cache nor connection.
    """
    for offline in (True, False):
        try:
            folder = Path(snapshot_download(_VOCABULARY, allow_patterns=_VOCABULARY_FILES, local_files_only=offline))
        except (_HTTPError, OSError, LocalEntryNotFoundError):
            continue
        if all((folder / name).is_file() for name in _VOCABULARY_FILES):
            return folder
    raise InputError(
        f"{checkpoint} has no tokenizer and the hub's {_VOCABULARY} cannot be reached; convert it with "
        "--tokenizer FOLDER, one with vocab.json and merges.txt, such as any diffusers folder's tokenizer"
    )


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


def _cached(repository: str) -> Path:
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        raise InputError(
            f"{repository} is not on this machine and the hub cannot be reached; connect once to download it, "
            "or give the path of what you have"
        ) from None
