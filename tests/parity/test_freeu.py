"""FreeU in the form diffusers has it, around random networks."""

import mlx.core as mx
import pytest

from mlx_sd import FreeU
from tests.support import families, reference
from tests.support.families import FAMILIES, distance

FORMS = 1e-4


@pytest.mark.parametrize("factors", [(1.5, 1.6, 0.9, 0.2), (1.1, 0.7, 0.3, 1.4)])
@pytest.mark.parametrize("size", [(8, 8), (16, 8), (10, 12)])
@pytest.mark.parametrize("name", ["sd1", "sd2v", "sdxl"])
def test_enable_freeu(name, size, factors, modules, family, measure):
    network, unet = modules(name)["unet"], family(name).unet
    inputs = families.unet_inputs(FAMILIES[name]["unet"], size)
    b1, b2, s1, s2 = factors
    plain = reference.unet(network, inputs)
    network.enable_freeu(b1=b1, b2=b2, s1=s1, s2=s2)
    try:
        theirs = reference.unet(network, inputs)
    finally:
        network.disable_freeu()
    join = FreeU(b1, b2, s1, s2, "constant").join(unet.config)
    ours = unet(**{key: mx.array(value) for key, value in inputs.items()}, join=join)[0]
    assert distance(theirs, plain) > 100 * FORMS
    measure("FreeU, constant", distance(ours, theirs), FORMS)
