"""The rules write one network in three forms of Core AI, all of which compute what MLX computes."""

import re
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from coreml.compression import schemes
from coreml.coreai import asset, constants
from coreml.coreai.asset import Function
from coreml.coreai.coreai_core import AIModelAsset
from coreml.coreai.runtime import Runtime
from coreml.lowering.attention import ATTENTIONS
from coreml.lowering.graph import record
from coreml.lowering.interfaces import FunctionSpec, Port
from coreml.lowering.layout import IMAGE
from mlx_sd.networks import ops
from mlx_sd.networks.layers import Linear
from tests.support.effort import slow_but
from tests.support.exports import CORE_AI, SMALL


class Block(nn.Module):
    """One of everything that has several forms: norms, a convolution, linears, and attention with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.image_norm, self.norm = nn.GroupNorm(2, 8), nn.LayerNorm(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.q, self.k, self.v = (Linear(8, 8) for _ in range(3))

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        y = ops.group_norm(x, self.image_norm.weight, self.image_norm.bias, groups=2, eps=1e-5)
        y = ops.silu(ops.conv2d(y, self.conv.weight, self.conv.bias, stride=1, padding=1))
        tokens = y.reshape(1, 16, 8)
        tokens = ops.layer_norm(tokens, self.norm.weight, self.norm.bias, eps=1e-5)
        q, k, v = (f(tokens).reshape(1, 16, 2, 4).transpose(0, 2, 1, 3) for f in (self.q, self.k, self.v))
        z = ops.attention(q, k, v, scale=0.5).transpose(0, 2, 1, 3).reshape(1, 4, 4, 8)
        return y + z, z


SHAPE = (1, 4, 4, 8)
X, Y, Z = (Port(name, SHAPE, IMAGE, mx.float32, mx.float32) for name in "xyz")
SPEC = FunctionSpec("Block", "unet", lambda network, x: network(x), (X,), (Y, Z), "block", mx.float32)


@pytest.fixture(scope="module")
def network() -> Block:
    network = Block()
    rng = np.random.default_rng(0)
    arrays = [
        (n, mx.array(rng.standard_normal(a.shape, dtype=np.float32))) for n, a in tree_flatten(network.parameters())
    ]
    network.load_weights(arrays)
    return network


def write(network: Block, attention: str, path, states: tuple[str, ...] = ()) -> tuple[mx.array, tuple[mx.array, ...]]:
    """Writes the network's function, and one with states; returns inputs and what MLX makes of them."""
    weights = {name: np.array(array) for name, array in tree_flatten(network.parameters())}
    x = mx.array(np.random.default_rng(1).standard_normal(SHAPE, dtype=np.float32))
    results = network(x)
    mx.eval(results)
    graph = record(SPEC, Block())
    functions = {"main": Function(SPEC, graph)} | ({"refresh": Function(SPEC, graph, states)} if states else {})
    asset.write(functions, weights.__getitem__, attention, path)
    return x, results


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_form_computes_what_mlx_computes(attention, network, tmp_path):
    path = tmp_path / "x.aimodel"
    x, expected = write(network, attention, path)
    runtime = Runtime(path)
    result = runtime.run("main", {"x": X.store(x)})
    for port, y in zip((Y, Z), expected, strict=True):
        assert mx.abs(port.load(result[port.name]) - y).max() <= 1e-5 * mx.abs(y).max()
    runtime.close()


def test_the_form_for_gpus_is_of_apples_composites_and_products_of_matrices(network, tmp_path):
    write(network, "fused", tmp_path / "x.aimodel")
    text = str(AIModelAsset.load(tmp_path / "x.aimodel").program)
    declared = dict(re.findall(r'composite_declaration<"(\w+)" = \{input_names = \[([^\]]+)\]', text))
    assert declared == {
        "group_norm": '"input", "weight", "bias"',
        "layer_norm": '"input", "gamma", "beta"',
        "scaled_dot_product_attention": '"query", "key", "value"',
    }
    assert re.search(r"num_channels = 8 : si64.*num_groups = 2 : si64", text)
    assert text.count("coreai.conv2d") == 1  # of the image; the linears are products
    assert len(re.findall(r"= \S*batch_matmul\b", text)) == 5


def test_the_form_for_the_neural_engine_has_convolutions_for_linears(network, tmp_path):
    write(network, "split-einsum", tmp_path / "x.aimodel")
    text = str(AIModelAsset.load(tmp_path / "x.aimodel").program)
    assert "composite_declaration" not in text and "coreai.silu" not in text
    assert text.count("coreai.conv2d") == 4
    assert len(re.findall(r"= \S*batch_matmul\b", text)) == 4  # two for each head


@pytest.mark.slow
@pytest.mark.parametrize("attention", slow_but(("fused",), ATTENTIONS))
def test_nothing_has_more_than_five_axes(attention, exported):
    """Apple's compiler for the Neural Engine takes no more."""
    folder = exported(SMALL, dtype="float32", attention=attention, **CORE_AI)
    ranks = {asset.stem: max(ranks_of(asset)) for asset in folder.glob("*.aimodel")}
    assert ranks.keys() == {"TextEncoder", "Unet", "VAEDecoder", "VAEEncoder"}
    assert max(ranks.values()) == 5  # of upsampling


def ranks_of(path) -> set[int]:
    """The numbers of axes of all values in an asset's program."""
    text = str(AIModelAsset.load(path).program)
    return {shape.count("x") for shape in re.findall(r"tensor<((?:\d+x)+)", text)}


def test_a_state_is_written_in_place_and_is_what_the_plain_output_is(network, tmp_path):
    path = tmp_path / "x.aimodel"
    x, _ = write(network, "original", path, states=("z",))
    runtime = Runtime(path)
    assert runtime.functions["refresh"]["states"].keys() == {"z"}
    assert runtime.functions["refresh"]["outputs"].keys() == {"y"}
    plain = runtime.run("main", {"x": X.store(x)})
    kept = runtime.run("refresh", {"x": X.store(x), "z": np.zeros(Z.stored, np.float32)}, states=["z"])
    assert all(np.array_equal(plain[name], kept[name]) for name in ("y", "z"))
    runtime.close()


def test_metadata_holds_what_info_json_holds_but_for_nulls(network, tmp_path):
    from coreml.coreai.runtime import check

    write(network, "original", tmp_path / "x.aimodel")
    asset.write_metadata(tmp_path / "x.aimodel", {"a": {"b": [1, 2.5, "x", True]}, "c": None})
    assert check(tmp_path / "x.aimodel") == {"a": {"b": [1, 2.5, "x", True]}}


@pytest.mark.parametrize("scheme", ("palettize4", "int4:32", "sparse50"))
def test_a_weight_is_compressed_once_for_all_functions(scheme, tmp_path):
    network = Linears()
    rng, numbers, names = np.random.default_rng(0), {}, []
    for name, array in tree_flatten(network.parameters()):
        numbers[name] = rng.standard_normal(array.shape, dtype=np.float32)
    rows = Port("x", (4, 64), (0, 1), mx.float32, mx.float32)
    result = replace(rows, name="y")
    spec = FunctionSpec("Linears", "unet", lambda n, x: (n(x),), (rows,), (result,), "linears", mx.float32)

    def describe(parameter, array):
        names.append(parameter)
        return schemes.parse(scheme).compress(array)

    functions = {name: Function(spec, record(spec, Linears())) for name in ("main", "full", "shallow")}
    sizes = []
    for count in (1, 3):
        names.clear()
        path = tmp_path / f"{count}.aimodel"
        chosen = dict(list(functions.items())[:count])
        sizes.append(asset.write(chosen, numbers.__getitem__, "fused", path, constants.compress(describe)).bytes)
        assert sorted(names) == ["first.weight", "second.weight"]
    assert sizes[1] < sizes[0] + 0.2 * numbers["first.weight"].size  # bytes: a second copy of 4 bits takes 0.5 each
    runtime, x = Runtime(tmp_path / "3.aimodel"), rng.standard_normal((4, 64), dtype=np.float32)
    expected = x
    for name in ("first", "second"):
        weight = numbers[f"{name}.weight"]
        expected = expected @ schemes.parse(scheme).compress(weight).dense().T + numbers[f"{name}.bias"]
    for function in functions:
        y = runtime.run(function, {"x": x})["y"]
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()
    runtime.close()


class Linears(nn.Module):
    """Two linear layers, large enough to be compressed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Linear(64, 512), Linear(512, 64)

    def __call__(self, x: mx.array) -> mx.array:
        return self.second(self.first(x))
