"""A UNet of full size in Apple's own runtime is the UNet of MLX: what small widths cannot show."""

import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from bench import models
from bench.memory import exports

LIMIT = 2e-5  # relative to the largest number of an output


@pytest.mark.slow
def test_the_unet_of_sd15_is_that_of_mlx_at_128_pixels():
    with models.temporary("sd15") as folder:
        checked = exports.check(str(folder), 128, ["unet"])
    outputs = {"main.noise_pred", "full.noise_pred", "full.deep_feature", "shallow.noise_pred"}
    assert checked["errors"].keys() == {f"Unet.{output}" for output in outputs}
    assert checked["largest"] <= LIMIT
