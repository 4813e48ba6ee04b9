"""Adapters beside layers: nothing at first, alpha / rank times their product when merged, on the layers meant."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_sd.core.errors import InputError
from mlx_sd.networks.layers import Conv, Linear
from mlx_sd.train.learning.low_rank import TARGETS, Adapters, LayerName, layers_of

LAYERS = {
    "linear": (lambda: Linear(6, 5), (2, 3, 6)),
    "pointwise": (lambda: Conv(6, 5, kernel=1), (2, 4, 4, 6)),
    "convolution": (lambda: Conv(6, 5), (2, 4, 4, 6)),
    "strided": (lambda: Conv(6, 5, stride=2), (2, 4, 4, 6)),
}


@pytest.mark.parametrize("alpha", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("kind", LAYERS)
def test_an_adapter_is_its_product_merged_into_the_weight(kind, alpha):
    make, shape = LAYERS[kind]
    layer, x = make(), mx.random.normal(shape)
    before = layer(x)
    adapters = Adapters({LayerName("unet", "layer.0"): layer}, 4, alpha, seed=0)
    assert mx.array_equal(layer(x), before)  # `up` is zero
    (adapter,) = adapters.by_layer.values()
    adapter.up = mx.random.normal(adapter.up.shape)
    beside = layer(x)
    adapters.remove()
    assert mx.array_equal(layer(x), before)
    product = mx.tensordot(adapter.up, adapter.down, axes=1) * (alpha / 4)
    layer.weight = layer.weight + product
    assert mx.allclose(layer(x), beside, atol=1e-5).item()
    assert not mx.allclose(before, beside, atol=1e-2).item()


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_targets_are_those_of_other_trainers(name, family):
    """diffusers' are the four projections of attentions; kohya's, all of transformers; LoCon's, all but the ends."""
    model = family(name).model
    attention, transformers, everything = (layers_of("unet", model.unet, targets) for targets in TARGETS)
    assert attention.keys() < transformers.keys() < everything.keys()
    assert {path.path.rpartition(".")[2] for path in attention} == {"q", "k", "v", "out"}
    others = transformers.keys() - attention.keys()
    assert {path.path.rpartition(".")[2] for path in others} == {"proj_in", "proj_out", "up", "down"}
    convolutions = everything.keys() - transformers.keys()
    assert {path.path.rpartition(".")[2] for path in convolutions} == {"conv1", "conv2", "embed", "skip", "conv"}
    assert not {"conv", "down.stages.0.0"} & {path.path for path in everything}
    text = layers_of("text_encoder", model.text_encoders[0], "transformers")
    assert {path.path.rpartition(".")[2] for path in text} == {"q", "k", "v", "out", "fc1", "fc2"}
    with pytest.raises(InputError, match="targets"):
        layers_of("unet", model.unet, "some")


def test_parameters_are_float32_beside_layers_of_any_dtype():
    layer = Linear(6, 5)
    layer.set_dtype(mx.bfloat16)
    adapters = Adapters({LayerName("unet", "layer"): layer}, 2, 2.0, seed=0)
    assert {array.dtype for _, array in tree_flatten(adapters.trainable_parameters())} == {mx.float32}
    assert layer(mx.zeros((1, 6), mx.bfloat16)).dtype == mx.bfloat16


def test_a_rank_is_not_above_a_layer_s_width():
    layer = Linear(6, 5)
    adapters = Adapters({LayerName("unet", "layer"): layer}, 64, 64.0, seed=0)
    (adapter,) = adapters.by_layer.values()
    assert adapter.down.shape == (5, 6) and adapter.alpha / adapter.rank == 1.0
