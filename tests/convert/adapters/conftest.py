"""Fixtures of tests of adapters."""

from pathlib import Path

import pytest

from tests.support import families


@pytest.fixture(scope="session")
def folders(shapes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> its diffusers folder, to be read."""
    home = tmp_path_factory.mktemp("folders")
    return {name: families.write_folder(name, shapes[name], home / name) for name in ("sd1", "sdxl")}
