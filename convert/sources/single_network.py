"""A network beside a checkpoint, as an autoencoder of its own: where it lies, here or on the hub."""

import re
from collections.abc import Mapping
from pathlib import Path

from mlx_sd.core.errors import InputError

from ..files import hub
from ..files.refusals import is_pickle, pickle_error
from .diffusers_folder import STEMS, infixes


def locate(name: str, repositories: Mapping[str, str] | None = None) -> Path:
    """Returns the file or folder of a network; what is not here, and is a hub id, is downloaded.

    repositories: short names -> hub ids. InputError where there is nothing of that name.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    repository = (repositories or {}).get(name, name)
    return fetch(repository) if hub.is_id(repository) else path


def fetch(repository: str) -> Path:
    """Downloads the config and the weights of a repository that holds one network, and returns its folder.

    Cache and errors are those of `hub.download`; InputError for a repository of another layout.
    """

    def select(files: list[str]) -> list[str]:
        """Picks the network's files: the best form of its weights."""
        weights = [name for infix in infixes(None) if (name := _weights(files, infix))]
        if "config.json" not in files or not weights:
            if pickles := sorted(file for file in files if is_pickle(file)):
                raise pickle_error(repository, pickles)
            raise InputError(f"{repository} holds no single network (config.json and {STEMS[0]}.safetensors)")
        return ["config.json", weights[0]]

    return hub.download(repository, select)[0]


def _weights(files: list[str], infix: str) -> str | None:
    name = re.compile(rf"({'|'.join(STEMS)}){re.escape(infix)}\.safetensors")
    return next((file for file in files if name.fullmatch(file)), None)
