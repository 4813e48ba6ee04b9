"""Checkpoints by their hub id."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

from mlx_sd.errors import InputError

_CONFIGS = ["model_index.json", "*/*.json", "tokenizer*/*.txt"]


def fetch(repository: str, variant: str | None = None) -> Path:
    """Downloads a checkpoint's configs and safetensors (its `variant` where it has one) and returns its folder.

    What is in the hub's own cache is not downloaded again; without network the cache alone is used. Raises
    InputError for an unknown repository, and where there is neither network nor cache.
    """
    try:
        files = HfApi().list_repo_files(repository)
        patterns = _CONFIGS + [f for f in files if f.count("/") == 1 and _wanted(f, files, variant)]
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except RepositoryNotFoundError:
        raise InputError(
            f"there is no folder {repository} here and no such repository on the hub (or it needs `hf auth login`)"
        ) from None
    except HfHubHTTPError as error:
        raise InputError(f"the hub refused {repository}: {str(error).splitlines()[0]}") from None
    except (OSError, OfflineModeIsEnabled):  # every kind of broken connection is an OSError
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
