"""The embedded class-conditional checkpoint: small, read by its name, and of the classes that it is asked for."""

import numpy as np
import pytest

from bench.tiny.scenes import LABELS
from mlx_sd import StableDiffusion
from mlx_sd.core.embedded import EMBEDDED


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.load("tiny-classes", "float32")


def test_it_is_small():
    sizes = {
        part: sum(f.stat().st_size for f in (EMBEDDED["tiny-classes"] / part).iterdir()) for part in ("unet", "vqvae")
    }
    assert 4e6 < sizes["unet"] < 6e6 and sum(sizes.values()) < 15e6


def test_its_classes_are_the_things_of_the_drawn_world(sd):
    assert [sd.model.classes.names[i] for i in range(len(LABELS))] == list(LABELS)
    assert sd.model.classes.null == len(LABELS) == sd.model.classes.rows - 1


@pytest.mark.slow
def test_snowmen_stand_in_snow_and_boats_on_water(sd):
    """The ground of most snowmen is bright, that of most sailboats blue: the class decides, not the noise."""
    made = {name: _ground(sd, name) for name in ("snowman", "sailboat")}
    blue = {name: (ground[:, 2] - ground[:, 0]) for name, ground in made.items()}
    assert np.median(made["snowman"].mean(1)) > np.median(made["sailboat"].mean(1)) + 30
    assert np.median(blue["sailboat"]) > np.median(blue["snowman"]) + 20


def _ground(sd, name):
    images = sd.generate(classes=name, steps=8, guidance=3.0, count=4, batch=4, seed=0).images
    return np.stack([np.asarray(image, float)[-16:].mean((0, 1)) for image in images])
