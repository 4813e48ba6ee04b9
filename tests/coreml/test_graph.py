"""What is recorded of the networks: canaries that notice a new MLX, and budgets that fail both ways."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from bench.models import UNETS
from coreml import cut, package
from coreml.compress import plain
from coreml.graph import trace
from coreml.networks import Port, Spec, UNetPackages
from mlx_sd.checkpoint.model_folder import build, shapes
from mlx_sd.core.errors import InputError
from mlx_sd.networks import ops
from mlx_sd.networks.layers import Linear

# Of the whole UNet at full size. What MLX calls its glue may change with its releases; the operations may not.
NODES = {
    "sd15": {"conv2d": 66, "linear": 216, "group_norm": 61, "layer_norm": 48, "attention": 32, "silu": 47, "gelu": 16},
    "sd21": {"conv2d": 66, "linear": 216, "group_norm": 61, "layer_norm": 48, "attention": 32, "silu": 47, "gelu": 16},
    "sdxl": {
        "conv2d": 51,
        "linear": 743,
        "group_norm": 46,
        "layer_norm": 210,
        "attention": 140,
        "silu": 38,
        "gelu": 70,
    },
}
GLUE = {
    "sd15": {"Add": 108, "Concatenate": 13, "Multiply": 18, "Split": 16, "Transpose": 128, "Reshape": 160},
    "sd21": {"Add": 108, "Concatenate": 13, "Multiply": 18, "Split": 16, "Transpose": 128, "Reshape": 160},
    "sdxl": {"Add": 256, "Concatenate": 12, "Multiply": 74, "Split": 70, "Transpose": 560, "Reshape": 584},
}
# Multiply-accumulates of one guided step, in units of 10^9: whole, DeepCache's shallow part at branch 0.
MACS = {"sd15": (803.27, 63.25), "sd21": (2149.1, 202.64), "sdxl": (6761.2, 98.08)}


def packages(name: str, depth: int = 1, dtype: mx.Dtype = mx.float16) -> tuple[UNetPackages, object]:
    network = build("unet", UNETS[name], name)
    side = UNETS[name]["sample_size"]
    return UNetPackages(network.config, 77, 1280, side, side, 2, dtype, depth), network


@pytest.mark.parametrize("name", UNETS)
def test_every_operation_of_the_networks_is_recorded_whole(name):
    made, network = packages(name)
    graph = package.record(made.full(), network)
    found: dict[str, int] = {}
    for node in graph.nodes:
        found[node.op] = found.get(node.op, 0) + 1
    assert {kind: found.get(kind) for kind in NODES[name]} == NODES[name]
    assert {kind: found.get(kind) for kind in GLUE[name]} == GLUE[name]
    assert "Convolution" not in found and "Matmul" not in found


@pytest.mark.parametrize("name", UNETS)
def test_the_halves_do_the_work_of_the_whole(name):
    made, network = packages(name)
    deep = made.deep_shape(network)
    whole, lower, upper = (
        package.record(s, network).macs() for s in (made.full(), made.deep(deep), made.shallow(deep))
    )
    assert whole / 1e9 == pytest.approx(MACS[name][0], rel=0.001)
    assert upper / 1e9 == pytest.approx(MACS[name][1], rel=0.001)
    twice = lower + upper - whole  # the first convolutions run in both
    assert 0 < twice < 0.001 * whole


def test_the_time_is_kept_in_float32_whatever_the_network():
    made, network = packages("sd15")
    graph = package.record(made.full(), network)
    for node in graph.nodes:
        if node.op in ("Sin", "Cos", "Exp"):
            assert graph.dtypes[node.outputs[0]] == mx.float32
    assert all(graph.dtypes[n.outputs[0]] == mx.float16 for n in graph.nodes if n.op in NODES["sd15"])


def test_a_trace_computes_nothing_and_leaves_no_recorder():
    def function(x: mx.array, *, w: mx.array) -> tuple[mx.array, ...]:
        return (ops.linear(x, w),)

    x, w = mx.zeros((2, 3)), mx.zeros((4, 3))
    graph = trace(function, [x], {"w": w})
    assert [n.op for n in graph.nodes] == ["linear"]
    assert graph.parameters[graph.nodes[0].inputs[1]] == "w"
    assert (function(x, w=w)[0] == 0).all().item()  # runs again, where a recorder left behind would not


@pytest.mark.parametrize("name", UNETS)
def test_halves_weigh_about_the_same_and_pass_on_images_and_vectors(name):
    made, network = packages(name)
    spec = made.full()
    graph = package.record(spec, network)
    sizes = {parameter: math.prod(shape) for parameter, shape in shapes(network).items()}
    (first, before), (_, after) = cut.halves(spec, graph)
    assert all(len(port.shape) in (2, 4) for port in first.outputs)
    weights = [sum(sizes[p] for p in part.parameters.values()) for part in (before, after)]
    assert sum(weights) == sum(sizes.values())  # none is in both
    assert abs(weights[0] - weights[1]) < 0.1 * sum(weights)


def test_an_operation_that_cannot_be_lowered_is_named_with_its_layer(tmp_path):
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Linear(4, 4), Linear(4, 4)

        def __call__(self, x: mx.array) -> mx.array:
            return mx.tan(self.second(self.first(x)))

    def numbers(name: str) -> np.ndarray:
        return np.ones((4, 4) if name.endswith("weight") else 4, np.float32)

    port = Port("x", (2, 4), (0, 1), mx.float32, mx.float32)
    spec = Spec("Strange", "unet", lambda network, x: (network(x),), (port,), (port,), "strange", mx.float32)
    graph = package.record(spec, Strange())
    with pytest.raises(InputError, match=r"operation Tan \(second\) cannot be lowered"):
        package.write(spec, graph, numbers, plain, "original", "iOS16", tmp_path / "x.mlpackage")
    assert list(tmp_path.iterdir()) == []
