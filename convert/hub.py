"""Checkpoints by their hub id."""

import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from mlx_sd.errors import InputError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# The base of whatever the HTTP library under huggingface_hub raises, connection errors included.
_HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]
_CONFIGS = ["model_index.json", "*/*.json", "tokenizer*/*.txt"]


def is_id(model: str) -> bool:
    """Whether a text has the form owner/name."""
    return _HUB_ID.fullmatch(model) is not None


def fetch(repository: str, variant: str | None = None) -> Path:
    """Downloads a checkpoint's configs and safetensors (its `variant` where it has one) and returns its folder.

    What is in the hub's own cache is not downloaded again; without network the cache alone is used. Raises
    InputError for an unknown repository, and where there is neither network nor cache.
    """
    try:
        files = [file.rfilename for file in HfApi().model_info(repository, timeout=10).siblings or []]
        patterns = _CONFIGS + [f for f in files if f.count("/") == 1 and _wanted(f, files, variant)]
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except GatedRepoError:
        raise InputError(f"{repository} asks you to accept its licence on the hub, then `hf auth login`") from None
    except RepositoryNotFoundError:
        raise InputError(f"{repository} is neither a folder here nor a repository on the hub (or is private)") from None
    except (_HTTPError, OSError):  # no connection
        return _cached(repository)


def _cached(repository: str) -> Path:
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        raise InputError(
            f"{repository} is not on this machine and the hub cannot be reached; connect once to download it, "
            "or give --model the path of a folder"
        ) from None


def _wanted(file: str, files: list[str], variant: str | None) -> bool:
    folder, _, name = file.partition("/")
    if not name.endswith(".safetensors") or folder in ("safety_checker", "image_encoder", "feature_extractor"):
        return False
    stem = name.split(".")[0].split("-")[0]
    if stem not in ("diffusion_pytorch_model", "model"):
        return False
    has = variant is not None and any(f.startswith(f"{folder}/") and f".{variant}" in f for f in files)
    return (f".{variant}" in name) == has if variant else "." not in name.removesuffix(".safetensors")
