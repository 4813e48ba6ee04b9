"""Two small networks, written by this project and by Apple's coreai-torch: the same composites and the same numbers.

`make coreai-torch` installs coreai-torch into an environment of its own, beside coreai-core in this project's version.
"""

import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

pytest.importorskip("coreai", reason="the extra coreai is not installed")
pytest.importorskip("coreai_torch", reason="coreai-torch is not installed")

import coreai_torch
import torch

from coreml.coreai import asset
from coreml.coreai.coreai_core import AIModelAsset
from coreml.coreai.runtime import Runtime
from coreml.lowering.graph import record
from coreml.lowering.interfaces import FunctionSpec, Port
from coreml.lowering.layout import IMAGE, ROWS, Order
from mlx_sd.networks import ops
from mlx_sd.networks.layers import Linear

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and coreai-torch


class Image(nn.Module):
    """Norm of groups, activation and convolution of an image (1, 4, 4, 8)."""

    shape, order = (1, 4, 4, 8), IMAGE

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        y = ops.silu(ops.group_norm(x, self.norm.weight, self.norm.bias, groups=2, eps=1e-5))
        return ops.conv2d(y, self.conv.weight, self.conv.bias, stride=1, padding=1)


class Tokens(nn.Module):
    """Norm of layers and attention of two heads over tokens (1, 16, 8)."""

    shape, order = (1, 16, 8), ROWS

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.q, self.k, self.v = nn.LayerNorm(8), Linear(8, 8), Linear(8, 8), Linear(8, 8)

    def __call__(self, x: mx.array) -> mx.array:
        y = ops.layer_norm(x, self.norm.weight, self.norm.bias, eps=1e-5)
        q, k, v = (f(y).reshape(1, 16, 2, 4).transpose(0, 2, 1, 3) for f in (self.q, self.k, self.v))
        return ops.gelu(ops.attention(q, k, v, scale=0.5).transpose(0, 2, 1, 3).reshape(1, 16, 8))


class TorchImage(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(torch.nn.functional.silu(self.norm(x)))


class TorchTokens(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)
        self.q, self.k, self.v = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (f(y).reshape(1, 16, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return torch.nn.functional.gelu(y.transpose(1, 2).reshape(1, 16, 8))


def composites(path: Path) -> set[str]:
    return set(re.findall(r'composite_declaration<"(\w+)"', str(AIModelAsset.load(path).program)))


def write(network: nn.Module, order: Order, path: Path) -> dict[str, np.ndarray]:
    """Writes a network with random weights as this project does; returns the weights."""
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(a.shape).astype(np.float32) for n, a in tree_flatten(network.parameters())}
    x, y = (Port(name, network.shape, order, mx.float32, mx.float32) for name in "xy")
    spec = FunctionSpec("Test", "unet", lambda network, x: (network(x),), (x,), (y,), "test", mx.float32)
    asset.write({"main": asset.Function(spec, record(spec, network))}, weights.__getitem__, "fused", path)
    return weights


@pytest.mark.parametrize(("ours", "theirs"), ((Image, TorchImage), (Tokens, TorchTokens)), ids=("image", "tokens"))
def test_both_write_the_same_composites_and_numbers(ours, theirs, tmp_path):
    paths = [tmp_path / f"{name}.aimodel" for name in ("ours", "theirs")]
    weights = write(ours(), ours.order, paths[0])
    network = theirs().eval()
    network.load_state_dict(
        {n: torch.tensor(w.transpose(0, 3, 1, 2).copy() if w.ndim == 4 else w) for n, w in weights.items()}
    )
    shape = tuple(ours.shape[axis] for axis in ours.order)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    exported = torch.export.export(network, args=(torch.tensor(x),))
    program = coreai_torch.TorchConverter().add_exported_program(
        exported.run_decompositions(coreai_torch.get_decomp_table())
    )
    program.to_coreai().save_asset(paths[1])
    results = []
    for path in paths:
        runtime = Runtime(path)
        (port,) = runtime.functions["main"]["inputs"]
        (result,) = runtime.run("main", {port: x}).values()
        results.append(result)
        runtime.close()
    assert composites(paths[0]) == composites(paths[1]) != set()
    assert np.abs(results[0] - results[1]).max() <= 1e-5 * np.abs(results[1]).max()
