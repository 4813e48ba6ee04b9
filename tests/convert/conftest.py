"""Folders that several tests of conversion spoil: an original, and what it is converted to."""

import shutil
from pathlib import Path

import pytest

from convert import __main__ as command


@pytest.fixture(scope="session")
def converted(original, tmp_path_factory) -> Path:
    """The tiny sd1 checkpoint as a model folder, to be read."""
    place = tmp_path_factory.mktemp("converted") / "model"
    assert command.main(["--model", str(original), "--out", str(place)]) == 0
    return place


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A diffusers folder of its own, to be spoilt."""
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


@pytest.fixture
def model(converted, tmp_path) -> Path:
    """A model folder of its own, to be spoilt."""
    return Path(shutil.copytree(converted, tmp_path / "model"))
