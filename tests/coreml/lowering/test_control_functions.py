"""The ports and the cost of a controlled UNet and of a control network at full size, without weights."""

from dataclasses import replace

import pytest

from bench.models import UNETS
from coreml.lowering.control_functions import ControlFunctions
from coreml.lowering.graph import record
from mlx_sd.networks.control import ControlNet
from mlx_sd.networks.control_config import ControlConfig
from tests.support import controls
from tests.support.graphs import full_size

# Shapes (B, C, h, w) of Apple's inputs additional_residual_0, ..., the middle's last
SD = [(320, 64)] * 3 + [(320, 32)] + [(640, 32)] * 2 + [(640, 16)] + [(1280, 16)] * 2 + [(1280, 8)] * 4
XL = [(320, 128)] * 3 + [(320, 64)] + [(640, 64)] * 2 + [(640, 32)] + [(1280, 32)] * 3
SKIPS = {"sd15": SD, "sdxl": XL}
# Multiply-accumulates of two rows, in units of 10^9: the whole network, its shallow form at branch 0, and the image's
# embedding of one row.
MACS = {"sd15": (283.29, 0.93323, 7.3610), "sdxl": (3020.4, 3.7329, 29.444)}


def functions(name: str) -> tuple[ControlFunctions, ControlNet]:
    unet, _ = full_size(name)
    config = ControlConfig.from_hf(controls.shared(UNETS[name]))
    return ControlFunctions("controlnet/X", config, 0, replace(unet, controlled=True)), ControlNet(config)


@pytest.mark.parametrize("name", SKIPS)
def test_residuals_have_the_shapes_of_apples_inputs(name):
    control, _ = functions(name)
    shapes = [(2, width, side, side) for width, side in SKIPS[name]]
    assert [port.stored for port in control.main().outputs] == shapes
    unet = control.unet
    full, deep, shallow = unet.full(), unet.deep((2, 64, 64, 320)), unet.shallow((2, 64, 64, 320))
    usual = len(unet.inputs())
    names = [f"additional_residual_{i}" for i in range(len(shapes))]
    assert [(port.name, port.stored) for port in full.inputs[usual:]] == list(zip(names, shapes, strict=True))
    assert [port.name for port in deep.inputs[usual:]] == names[1:]
    assert [port.name for port in shallow.inputs[usual:]] == ["deep_feature", names[0]]
    assert full.name == "ControlledUnet" and (deep.name, shallow.name) == (
        "ControlledUnetChunk1",
        "ControlledUnetChunk2",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SKIPS)
def test_a_cached_step_costs_a_small_share_of_the_network(name):
    control, network = functions(name)
    costs = [record(spec, network).macs() / 1e9 for spec in (control.main(), control.shallow(), control.image())]
    assert costs == pytest.approx(MACS[name], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SKIPS)
def test_residuals_cost_the_unet_no_multiplication(name):
    unet, network = full_size(name)
    assert record(replace(unet, controlled=True).full(), network).macs() == record(unet.full(), network).macs()
