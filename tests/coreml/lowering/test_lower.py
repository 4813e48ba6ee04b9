"""Lowering names what it cannot lower, and hands every operation to the emitter it is given."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from coreml.lowering import operations, primitives
from coreml.lowering.graph import record
from coreml.lowering.interfaces import FunctionSpec, Port
from coreml.lowering.lower import Lowering
from coreml.mil import package
from coreml.mil.emitter import uncompressed
from mlx_sd.core.errors import InputError
from mlx_sd.networks.layers import Linear


class Tangent(nn.Module):
    """Two linears and an operation that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Linear(4, 4), Linear(4, 4)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.tan(self.second(self.first(x)))


def numbers(name: str) -> np.ndarray:
    return np.ones((4, 4) if name.endswith("weight") else 4, np.float32)


PORT = Port("x", (2, 4), (0, 1), mx.float32, mx.float32)
SPEC = FunctionSpec("Tangent", "unet", lambda network, x: (network(x),), (PORT,), (PORT,), "tangent", mx.float32)


def test_an_operation_that_cannot_be_lowered_is_named_with_its_layer(tmp_path):
    graph = record(SPEC, Tangent())
    with pytest.raises(InputError, match=r"operation Tan \(second\) cannot be lowered"):
        package.write(SPEC, graph, numbers, uncompressed, "original", "iOS16", tmp_path / "x.mlpackage")
    assert list(tmp_path.iterdir()) == []


class Arrays:
    """An emitter that computes at once: its variables are MLX arrays."""

    def dtype(self, var: mx.array) -> np.dtype:
        return np.array(var).dtype

    def weight(self, parameter: str, array: np.ndarray) -> np.ndarray:
        return array

    def conv(self, x: mx.array, weight: np.ndarray, bias: np.ndarray, **geometry: object) -> mx.array:
        assert weight.shape[2:] == (1, 1) and not geometry
        return mx.einsum("bchw,oc->bohw", x, mx.array(weight[:, :, 0, 0])) + mx.array(bias.reshape(1, -1, 1, 1))

    def silu(self, x: mx.array) -> mx.array:
        return nn.silu(x)

    def reshape(self, x: mx.array, shape: list[int]) -> mx.array:
        return x.reshape(shape)

    def transpose(self, x: mx.array, perm: list[int]) -> mx.array:
        return x.transpose(perm)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(3, 5)

    def __call__(self, x: mx.array) -> mx.array:
        from mlx_sd.networks import ops

        return ops.silu(self.linear(x)).transpose(0, 2, 1)


def test_the_rules_emit_into_whatever_emitter_they_are_given():
    """A second back end needs an emitter, and no other rules."""
    network = Layer()
    rng = np.random.default_rng(0)
    weights = {"linear.weight": rng.standard_normal((5, 3)), "linear.bias": rng.standard_normal(5)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    x = mx.array(rng.standard_normal((2, 4, 3)).astype(np.float32))
    shape = (2, 4, 3)
    port = Port("x", shape, (0, 1, 2), mx.float32, mx.float32)
    spec = FunctionSpec("Layer", "unet", lambda network, x: (network(x),), (port,), (port,), "layer", mx.float32)
    lowering = Lowering(
        record(spec, network), primitives.RULES | operations.rules("original"), Arrays(), weights.__getitem__
    )
    from coreml.lowering.layout import Value

    (result,) = lowering.run([Value(x, shape, port.order)])
    network.load_weights([(name, mx.array(array)) for name, array in weights.items()])
    assert mx.allclose(lowering.stored(result, (0, 1, 2)), network(x), atol=1e-6)
