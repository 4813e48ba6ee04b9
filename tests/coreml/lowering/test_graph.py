"""What is recorded of the networks: canaries that notice a new MLX, and budgets that fail both ways."""

from collections import Counter
from functools import cache

import mlx.core as mx
import pytest

from bench.models import UNETS
from coreml.lowering.graph import record
from mlx_sd.networks import ops
from mlx_sd.networks.graph import trace
from tests.support.graphs import full_size, full_size_graph

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


# sd15 stands for the others: their graphs differ in size, and take seconds to record.
NAMES = pytest.mark.parametrize(
    "name", [name if name == "sd15" else pytest.param(name, marks=pytest.mark.slow) for name in UNETS]
)


@cache
def kinds(name: str) -> Counter[str]:
    return Counter(node.op for node in full_size_graph(name).nodes)


@NAMES
def test_every_operation_of_the_networks_is_recorded_whole(name):
    assert {kind: kinds(name)[kind] for kind in NODES[name]} == NODES[name]
    assert not {"Convolution", "Matmul"} & kinds(name).keys()


@NAMES
def test_the_primitives_between_operations_are_within_budget(name):
    assert {kind: kinds(name)[kind] for kind in GLUE[name]} == GLUE[name]


@NAMES
def test_deep_and_shallow_do_the_work_of_the_full_unet(name):
    functions, network = full_size(name)
    feature = functions.deep_shape(network)
    full = full_size_graph(name).macs()
    deep, shallow = (record(spec, network).macs() for spec in (functions.deep(feature), functions.shallow(feature)))
    assert full / 1e9 == pytest.approx(MACS[name][0], rel=0.001)
    assert shallow / 1e9 == pytest.approx(MACS[name][1], rel=0.001)
    shared = deep + shallow - full  # the first convolutions run in both
    assert 0 < shared < 0.001 * full


def test_the_time_is_in_float32_whatever_the_network():
    graph = full_size_graph("sd15")
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
    assert (function(x, w=w)[0] == 0).all().item()  # runs again; with a recorder left behind it would not
