"""Pictures of every task, sampler and cache are what earlier code made of the same weights, byte for byte or nearly."""

from pathlib import Path

import numpy as np
import pytest

from mlx_sd.cli import generate
from tests.support import pictures
from tests.support.effort import slow_but

# One of each way of reuse, some tasks and families of checkpoints.
QUICK = """
    demo tgate only-masked sd1-lora x4
"""
# Of 255: another processor may round otherwise. Those that add up halves in float16 were off by 3 and 5 levels at most.
LEVEL, FLOAT16_LEVEL, FLOAT16_MEAN = 1, 8, 0.5


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the checkpoints and pictures that the commands name."""
    return tmp_path_factory.mktemp("sources")


def test_every_picture_has_its_fixture_and_every_fixture_its_picture():
    assert {file.stem for file in pictures.FOLDER.glob("*.png")} == set(pictures.CASES)
    assert sum(file.stat().st_size for file in pictures.FOLDER.glob("*.png")) < 1.5e6


@pytest.mark.parametrize("name", slow_but(QUICK.split(), pictures.CASES))
def test_a_picture_is_what_it_was(name, sources, monkeypatch, capfd):
    monkeypatch.chdir(sources)
    pictures.write_sources(sources, pictures.CASES[name])
    assert generate.main(pictures.CASES[name]) == 0, capfd.readouterr().err
    now, before = pictures.pixels(sources / "pictures", name), pictures.pixels(pictures.FOLDER, name)
    assert now.shape == before.shape
    off = np.abs(now.astype(int) - before.astype(int))
    assert off.max() <= (FLOAT16_LEVEL if name == "float16" else LEVEL)
    assert off.mean() <= FLOAT16_MEAN
