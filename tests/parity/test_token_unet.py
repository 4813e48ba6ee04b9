"""The token model's denoiser: what the recipe writes, mlx_sd computes as PyTorch does."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from safetensors.torch import load_file

from bench.tiny import tokens, vq
from bench.tiny.stages import Plan
from convert.files.diffusers_names import diffusers_name
from mlx_sd.core.embedded import TINY
from mlx_sd.networks.tokens import TokenUNet
from mlx_sd.networks.unet_config import UNetConfig
from tests.support import families

LIMIT = 1e-4  # of logarithms of probabilities


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The folder of a network with random weights, as the recipe exports it."""
    torch.manual_seed(0)
    network = tokens.TokenUNet()
    folder = tmp_path_factory.mktemp("token-unet") / "unet"
    tokens.write_unet(folder, dict(network.unet.config), network.state_dict())
    return folder


def ours(folder: Path) -> TokenUNet:
    """The network of a folder in MLX, strictly with all its weights, in float32."""
    config = json.loads((folder / "config.json").read_text())
    network = TokenUNet(UNetConfig.from_hf(config))
    stored = mx.load(str(folder / tokens.WEIGHTS))
    weights = []
    for name, parameter in tree_flatten(network.parameters()):
        weight = stored.pop(diffusers_name("unet", network.names, name)).astype(mx.float32)
        rows = weight.transpose(0, 2, 3, 1) if weight.ndim == 4 else weight
        weights.append((name, rows.reshape(parameter.shape)))
    assert not stored
    network.load_weights(weights)
    return network


def theirs(folder: Path) -> tokens.TokenUNet:
    network = tokens.TokenUNet().eval()
    weights = load_file(folder / tokens.WEIGHTS)
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return network


def test_log_probabilities_are_pytorchs(written, measure):
    rng = np.random.default_rng(0)
    x = rng.integers(tokens.MASK + 1, size=(2, vq.GRID, vq.GRID))
    times, context = np.float32([0.03, 1.0]), families.numbers("context", 2, 77, tokens.WIDTH)
    with torch.no_grad():
        scores = theirs(written)(torch.from_numpy(x), torch.from_numpy(times), torch.from_numpy(context))
        expected = scores.log_softmax(1).permute(0, 2, 3, 1).numpy()
    logs, _ = ours(written)(mx.array(x.astype(np.int32)), mx.array(times), mx.array(context))
    measure("log-probabilities of tokens", float(np.abs(np.array(logs) - expected).max()), LIMIT)


def test_training_goes_on_from_a_token_model_and_begins_anew_from_another(written):
    def begun(start: Path | None) -> tokens.TokenUNet:
        return tokens.begin(Plan(Path(), scenes=16, minutes={}, threads=1, start=start))

    stored = load_file(written / tokens.WEIGHTS)
    weights = begun(written.parent).state_dict()
    assert weights.keys() == stored.keys()
    assert all(torch.equal(weights[name], weight.float()) for name, weight in stored.items())
    assert begun(TINY).state_dict().keys() == begun(None).state_dict().keys() == stored.keys()
