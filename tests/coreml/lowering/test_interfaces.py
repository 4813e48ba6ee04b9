"""Interfaces of packages: networks that no package can compute are named."""

import mlx.core as mx
import numpy as np
import pytest

from coreml.lowering.interfaces import Port, UNetFunctions
from coreml.lowering.layout import IMAGE, TOKENS
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.core.errors import InputError
from tests.support import families


@pytest.mark.parametrize(
    ("shape", "order", "stored"), (((2, 3, 4, 5), IMAGE, (2, 5, 3, 4)), ((2, 7, 5), TOKENS, (2, 5, 1, 7)))
)
def test_a_port_loads_what_it_has_stored(shape, order, stored):
    port = Port("x", shape, order, mx.float32, mx.float32)
    array = mx.random.normal(shape)
    assert port.store(array).shape == port.stored == stored
    assert np.array_equal(port.load(port.store(array)), array)


def test_a_unet_with_class_embeddings_is_refused():
    upscaler = build("unet", families.UNETS["upscaler"], "unet/config.json")
    with pytest.raises(InputError, match="class embeddings"):
        UNetFunctions(upscaler.config, 77, 0, 8, 8, 2, mx.float16, 1)
