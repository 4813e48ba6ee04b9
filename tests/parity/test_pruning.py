"""Pruned UNets are checkpoints for diffusers: it builds their configs, takes their weights, and gives our outputs."""

from pathlib import Path

import mlx.core as mx
import pytest
from diffusers import UNet2DConditionModel

from mlx_sd import StableDiffusion, resolve
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.train.pruning import scores, shapes
from mlx_sd.train.pruning.channels import channels_of
from mlx_sd.train.pruning.plan import plan
from mlx_sd.train.pruning.slicing import apply, weights_of
from tests.support import families, reference
from tests.support.families import FAMILIES, distance

LIMIT = 1e-5
SHARES = {"sd1": 0.3, "sd2v": 0.3, "sdxl": 0.5, "inpaint9": 0.3}


@pytest.fixture
def model(saved):
    """model("sd1") is a family's checkpoint."""
    return lambda name: StableDiffusion.load(saved(name), dtype="float32").model


def compare(name: str, model, config, weights, out: Path) -> float:
    """Writes a smaller UNet, and returns how far diffusers' outputs are from ours."""
    unet = UNet(UNetConfig.from_hf(config))
    unet.load_weights(list(weights.items()), strict=True)
    resolve.write_trained_model(model.folder, out, mx.float32, {"unet": (config, unet)})
    network, info = UNet2DConditionModel.from_pretrained(out / "unet", output_loading_info=True)
    assert not any(info.values()), info
    inputs = families.unet_inputs(FAMILIES[name]["unet"])
    ours = unet(**{key: mx.array(value) for key, value in inputs.items()})[0]
    return distance(ours, reference.unet(network.eval(), inputs))


@pytest.mark.parametrize("name", SHARES)
def test_a_pruned_unet_gives_the_outputs_of_diffusers(name, model, measure, tmp_path):
    checkpoint, config = model(name), FAMILIES[name]["unet"]
    values = scores.by_channel(channels_of(checkpoint.unet), weights_of(checkpoint.unet))
    result = plan(checkpoint.unet, config, values, SHARES[name])
    error = compare(name, checkpoint, result.config, apply(checkpoint.unet, result), tmp_path / "out")
    measure("pruned UNet", error, LIMIT)


@pytest.mark.parametrize(("name", "shape"), [("sd1", "base"), ("sd1", "small"), ("sd1", "tiny"), ("sdxl", "small")])
def test_a_unet_of_a_smaller_shape_gives_the_outputs_of_diffusers(name, shape, model, measure, tmp_path):
    checkpoint, config = model(name), FAMILIES[name]["unet"]
    weights = shapes.shape_weights(checkpoint.unet, config, shape)
    error = compare(name, checkpoint, shapes.shape_config(config, shape), weights, tmp_path / "out")
    measure("UNet of a smaller shape", error, LIMIT)
