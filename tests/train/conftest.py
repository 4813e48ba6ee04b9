"""Shared by the tests of the trainer: tiny random checkpoints whose networks may be changed, and micro-batches."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model import Model
from mlx_sd.train.learning.examples import MicroBatch
from mlx_sd.train.learning.objective import Objective
from mlx_sd.train.learning.random_keys import Place
from tests.support import families

TEXT = "a red zorb"


@pytest.fixture
def fresh(shapes, tmp_path_factory) -> Callable[..., Model]:
    """fresh("sd1") is that family's tiny random checkpoint, loaded anew: its weights may be changed."""

    def load(name: str, dtype: str = "float32", **options: str) -> Model:
        folder = tmp_path_factory.mktemp("fresh") / name
        families.write_folder(name, shapes[name], folder)
        return StableDiffusion.load(folder, dtype=dtype, **options).model

    return load


@pytest.fixture(scope="session")
def checkpoint(shapes, tmp_path_factory) -> Path:
    """The tiny sd1 checkpoint as a diffusers folder."""
    return families.write_folder("sd1", shapes["sd1"], tmp_path_factory.mktemp("base") / "sd1")


@pytest.fixture
def micro_batch() -> Callable[..., MicroBatch]:
    """micro_batch(model, objective, step) are noisy versions of one latent, with a caption."""

    def build(model: Model, objective: Objective, step: int = 0, count: int = 2) -> MicroBatch:
        clean = mx.random.normal((1, 8, 8, 4), key=mx.random.key(11))
        clean = mx.broadcast_to(clean, (count, 8, 8, 4))
        places = [Place(step, i) for i in range(count)]
        sizes = ((64, 64, 0, 0, 64, 64),) * count
        hints = mx.broadcast_to(mx.random.uniform(shape=(1, 64, 64, 3), key=mx.random.key(12)), (count, 64, 64, 3))
        factor = model.vae.config.downsampling
        hints = hints[:, : 8 * factor, : 8 * factor]
        return MicroBatch(clean, objective.draw(0, places, (8, 8, 4)), (TEXT,) * count, time_ids=sizes, hints=hints)

    return build
