"""Fixtures of the tests of coreml: exports of the small checkpoint that several files look at."""

from pathlib import Path

import pytest

from tests.support.exports import SMALL, UNET_AND_TEXT, control_network, exported, model  # noqa: F401 - fixtures


@pytest.fixture
def functions(exported) -> Path:  # noqa: F811
    """Two sizes in packages of several functions."""
    options = {"target": "iOS18", "unets": ("functions",), "attention": "original", "sizes": ((64, 64), (64, 128))}
    return exported(SMALL, UNET_AND_TEXT, **options)


@pytest.fixture
def halves(exported) -> Path:  # noqa: F811
    """A UNet in two halves of equal weights."""
    return exported(SMALL, UNET_AND_TEXT, dtype="float32", unets=("halves",), attention="original")


@pytest.fixture
def branch_2_batch_1(exported) -> Path:  # noqa: F811
    """Chunks cut at DeepCache branch 2, of one row."""
    options = {"dtype": "float32", "unets": ("chunks",), "attention": "original", "batch": 1, "branch": 2}
    return exported(SMALL, UNET_AND_TEXT, **options)
