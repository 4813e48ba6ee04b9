"""Fixtures of tests of the files that a training leaves."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_sd.load import load
from tests.support import families


@pytest.fixture(scope="session")
def folders(shapes, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """folders("sd1") is that family's tiny random checkpoint as a diffusers folder; written once."""
    home = tmp_path_factory.mktemp("folders")
    return functools.cache(lambda name: families.write_folder(name, shapes[name], home / name))


@pytest.fixture(scope="session")
def models(folders) -> Callable:
    """models("sd1") is that checkpoint, loaded in float32; loaded once."""
    return functools.cache(lambda name: load(folders(name), "float32"))
