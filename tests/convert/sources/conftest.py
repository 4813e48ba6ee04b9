"""Fixtures of tests of single files."""

import shutil
from pathlib import Path

import pytest

from tests.support import singles


@pytest.fixture(scope="session")
def sd1_file(shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny sd1 checkpoint as a single file, to be read."""
    return singles.write("sd1", shapes, tmp_path_factory.mktemp("single") / "sd1.safetensors")[0]


@pytest.fixture
def sd1(sd1_file: Path, tmp_path: Path) -> Path:
    """A copy of the single file, to be changed."""
    return Path(shutil.copyfile(sd1_file, tmp_path / "sd1.safetensors"))
