"""Tiles of the autoencoder: whatever their side, the picture has its size and nearly its colours."""

import mlx.core as mx
import pytest

from mlx_sd import InputError, StableDiffusion
from tests.support.effort import slow_but


@pytest.fixture(scope="module")
def vae():
    return StableDiffusion.load("tiny", dtype="float32").vae


@pytest.mark.parametrize("tile", slow_but([40], [32, 33, 39, 40, 56]))
def test_tiles_of_every_side_fit_together(vae, tile):
    """Sides that are no multiple of 4 latents made seams that lay beside each other, or a picture of another size."""
    blocks = mx.random.uniform(-1, 1, (1, 8, 6, 3), key=mx.random.key(0))
    latents = vae.encode(mx.repeat(mx.repeat(blocks, 8, 1), 8, 2))[0]
    tiled, whole = vae.decode(latents, tile), vae.decode(latents)
    assert tiled.shape == whole.shape == (1, 64, 48, 3)
    assert mx.abs(tiled - whole).mean().item() < 0.1
    encoded = vae.encode(whole, tile)[0]
    assert encoded.shape == latents.shape
    error = mx.abs(encoded - vae.encode(whole)[0]).mean()
    assert (error / mx.abs(latents).mean()).item() < 0.25


@pytest.mark.parametrize("tile", [1, 7, 8, 31, -5])
def test_a_tile_too_small_for_the_network_is_named(vae, tile):
    with pytest.raises(InputError, match="tile must be 0, for no tiles, or at least 32 pixels"):
        vae.tile(128, tile)
