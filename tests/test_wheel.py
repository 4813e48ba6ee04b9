"""The wheel is complete: installed outside the checkout it holds every module and data file, and makes a picture."""

import zipfile
from pathlib import Path

import pytest

from tests.support import wheel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the present sources."""
    folder = tmp_path_factory.mktemp("wheel")
    return wheel.build(wheel.copy_sources(folder / "sources"), folder)


def test_it_holds_every_file_of_the_packages_and_nothing_else(built):
    with zipfile.ZipFile(built) as archive:
        content = {name: archive.getinfo(name).file_size for name in archive.namelist() if ".dist-info/" not in name}
    assert content == {name: (wheel.ROOT / name).stat().st_size for name in wheel.files()}


def test_it_makes_the_picture_that_the_checkout_makes(built, tmp_path, run):
    """With no other copy of the packages to be seen."""
    python = wheel.environment(tmp_path / "environment", built)
    arguments = ["a tent", "--seed", "0", "--steps", "3", "--deepcache", "3", "--output", "wheel.png"]
    picture = wheel.demo(python, tmp_path, arguments)
    assert run(*arguments[:-1], "checkout.png")[0] == 0
    with wheel.Image.open(tmp_path / "checkout.png") as ours:
        assert ours.tobytes() == picture.tobytes()


def test_markers_of_requirements_compare_no_names_of_kernels():
    """Kernels have names such as 6.8.0-45-generic, which are no versions, and pip 24 stops with a traceback at them."""
    text = (wheel.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "platform_release" not in text and "platform_version" not in text
