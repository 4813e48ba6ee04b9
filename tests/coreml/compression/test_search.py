"""Sensitivities predict the output's error, and the search spends bytes where they lower it most."""

import itertools
import json

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_unflatten

from coreml import info
from coreml.__main__ import main
from coreml.compression import bits, networks, schemes, search, sensitivity
from coreml.compression.search import Choice
from coreml.lowering.graph import record
from coreml.lowering.interfaces import UNetFunctions
from coreml.mil import package
from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.networks.unet import UNet
from tests.support.exports import SMALL, leave_out

PROMPTS = ("a red tent", "a sailboat at night")


@pytest.fixture(scope="module")
def sd(model):
    return model(SMALL)


@pytest.fixture(scope="module")
def inputs(sd):
    return sensitivity.spread(list(sensitivity.trajectory(sd, PROMPTS, 4, 0)), 8)


@pytest.fixture(scope="module")
def sensitivities(sd, inputs):
    return sensitivity.measure(sd.unet, inputs)


def _outputs(unet, inputs):
    return np.stack([np.array(x.run(unet)) for x in inputs])


def _error(sd, inputs, compressor):
    """The output's squared error, summed over a row, with compressed weights."""
    plain = networks.weights_of(sd.unet)
    expected = _outputs(sd.unet, inputs)
    networks.compress(sd.unet, compressor)
    outputs = _outputs(sd.unet, inputs)
    sd.unet.update(tree_unflatten(list(plain.items())))
    assert np.array_equal(_outputs(sd.unet, inputs[:1])[0], expected[0])
    return float(np.square(outputs - expected).sum() / (len(inputs) * expected.shape[1]))


def test_inputs_are_those_of_generations(sd, inputs):
    assert len(inputs) == 8
    assert len({x.t[0].item() for x in inputs}) == 4
    for x in inputs:
        assert x.x.shape == (2, 8, 8, 4) and mx.array_equal(x.x[0], x.x[1])


@pytest.mark.parametrize("number", (4, 6, 8))
def test_the_error_of_the_output_is_predicted(number, sd, inputs, sensitivities):
    """For all weights at once in one number of bits; the float16 of the palettes is a part of 8 bits' error."""
    sizes = {name: array.size for name, array in networks.weights_of(sd.unet).items()}
    predicted = sum(search.choices(sizes[name], sensitivities[name], (number,))[0].error for name in sizes)
    measured = _error(sd, inputs, schemes.compressor(f"palettize{number}", "unet"))
    assert measured / 2 <= predicted <= 2 * measured


@pytest.mark.slow
def test_the_layers_that_matter_are_told(sd, inputs, sensitivities):
    """The order of single layers' errors: of those predicted far apart, the measured ones are in the same order."""
    sizes = {name: array.size for name, array in networks.weights_of(sd.unet).items()}
    predicted = {name: search.choices(sizes[name], sensitivities[name], (2,))[0].error for name in sizes}
    ranked = sorted(predicted, key=predicted.__getitem__)
    two = schemes.Scheme("palettize", 2)
    low, high = (
        _error(sd, inputs, lambda name, weight, few=few: two.compress(weight) if name in few else None)
        for few in (ranked[:5], ranked[-5:])
    )
    assert low < high / 3


def test_weights_are_those_that_an_export_compresses(sd):
    unet = UNet(sd.unet.config)
    spec = UNetFunctions(unet.config, 77, 0, 8, 8, 2, mx.float16, 1).full()
    compressed, arrays = set(), dict(networks.weights_of(sd.unet))

    def weight(parameter, array):
        if array.size >= schemes.SMALLEST:
            compressed.add(parameter)
            assert array.squeeze().shape == networks.outputs_first(np.array(arrays[parameter])).squeeze().shape
        return array

    shapes = {name: array.shape for name, array in _flat(unet)}
    graph = record(spec, unet)
    package._lower(spec, graph, lambda name: np.zeros(shapes[name], np.float16), weight, "original", "iOS16")
    assert compressed == arrays.keys()


def _flat(network):
    from mlx.utils import tree_flatten

    return tree_flatten(network.parameters())


# ------------------------------------------------------------------------------------------------ the allocation

STEP = st.tuples(st.integers(1, 40), st.floats(0.01, 100))


@given(st.lists(st.lists(STEP, min_size=1, max_size=4), min_size=1, max_size=4), st.floats(0, 1))
def test_the_allocation_is_the_best_but_for_the_last_bytes(layers, share):
    options = {}
    for i, steps in enumerate(layers):
        size, error, ways = 0, sum(e for _, e in steps), []
        for cost, gain in [(5, 0.0), *steps]:
            size, error = size + cost, error - gain
            ways.append(Choice(len(ways) + 1, size, error))
        options[str(i)] = ways
    least = sum(ways[0].bytes for ways in options.values())
    limit = int(least + share * (sum(ways[-1].bytes for ways in options.values()) - least))
    result = search.allocate(options, limit)
    assert sum(choice.bytes for choice in result.values()) <= limit
    # What is not spent is less than one step along a hull, so nothing that leaves so many bytes unused is better.
    largest = max(ways[-1].bytes - ways[0].bytes for ways in options.values())
    smaller = max(least, limit - largest)
    picks = [pick for pick in itertools.product(*options.values()) if sum(c.bytes for c in pick) <= smaller]
    best = min(sum(choice.error for choice in pick) for pick in picks)
    assert sum(choice.error for choice in result.values()) <= best + 1e-9


def test_limits_out_of_range():
    options = {"a": [Choice(1, 10, 1.0)]}
    with pytest.raises(InputError, match="9 bytes are too few"):
        search.allocate(options, 9)
    for number in (0.5, 9):
        with pytest.raises(InputError, match="--bits must be from 1 to 8"):
            search.budget({"a": 4096}, number)


def test_the_limit_is_that_of_uniform_palettes():
    sizes = {"a": 4096, "b": 10000}
    for number in schemes.PALETTE_BITS:
        uniform = [schemes.Scheme("palettize", number).compress(np.zeros((1, n), np.float16)) for n in sizes.values()]
        assert search.budget(sizes, number) == sum(constant.bytes for constant in uniform)
    assert search.budget(sizes, 4) < search.budget(sizes, 4.5) < search.budget(sizes, 5) < search.budget(sizes, 6)


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def bits_file(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bits")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    words = ["--prompts", str(folder / "prompts.txt"), "--steps", "4", "--inputs", "8", "--target", "iOS16"]
    path = folder / "bits.json"
    assert main(["bits", "--model", model(SMALL).model.name, "--bits", "4", "--out", str(path), *words]) == 0
    return path


@pytest.mark.slow
def test_mixed_bits_are_better_than_uniform_ones_on_other_inputs(bits_file, sd):
    content = json.loads(bits_file.read_text())
    others = sensitivity.spread(list(sensitivity.trajectory(sd, ("a cat", "a snowman"), 4, 1000)), 8)
    mixed, uniform = (_error(sd, others, schemes.compressor(name, "unet")) for name in (str(bits_file), "palettize4"))
    assert content["bytes"] <= content["limit"]
    assert {layer["bits"] for layer in content["layers"].values()} <= {1, 2, 4, 6, 8, 16}
    assert 10 * np.log10(uniform / mixed) >= 1


@pytest.mark.slow
def test_an_export_has_the_bits_of_the_file(bits_file, model, tmp_path, monkeypatch):
    leave_out(monkeypatch, ("unet",))
    out, layers = tmp_path / "out", json.loads(bits_file.read_text())["layers"]
    words = ["--model", model(SMALL).model.name, "--compress", str(bits_file), "--unet", "full", "--out", str(out)]
    assert main(words) == 0
    content = info.read(out)
    assert content["compression"]["bits"] == {name: layer["bits"] for name, layer in layers.items()}
    kinds = content["packages"]["Unet"]["functions"]["main"]["operations"]
    assert kinds["constexpr_lut_to_dense"] == sum(layer["bits"] < 16 for layer in layers.values())
    weights = (out / "Unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    small = sum(a.size for _, a in _flat(model(SMALL).unet)) - sum(layer["bytes"] > 0 for layer in layers.values())
    assert weights <= sum(layer["bytes"] for layer in layers.values()) + 2 * small


MISTAKES = {
    "--bits 9": "--bits must be from 1 to 8, not 9",
    "--out bits.txt": "the file is NAME.json",
    "--out nowhere/bits.json": "make the folder first",
    "--steps 0": "--steps and --inputs must be at least 1",
    "--prompts nothing.txt": "--prompts nothing.txt: No such file",
    "--size 64": "WIDTHxHEIGHT",
    "--model nowhere": "nowhere",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_of_the_search_is_one_line(flags, model, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["bits", "--model", model(SMALL).model.name, "--out", "bits.json", *flags.split()]) == 2
    printed = capfd.readouterr().err
    assert MISTAKES[flags] in printed and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_file_is_replaced_by_force_only(bits_file, model, capfd):
    before = bits_file.read_text()
    assert main(["bits", "--model", model(SMALL).model.name, "--out", str(bits_file)]) == 2
    assert "--force replaces it" in capfd.readouterr().err
    assert bits_file.read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize("number", (3,))
def test_the_embedded_checkpoint_gains_a_decibel_at_least(number):
    sd = StableDiffusion.load("tiny", "float32")
    sizes = {name: array.size for name, array in networks.weights_of(sd.unet).items()}
    seen = sensitivity.spread(list(sensitivity.trajectory(sd, bits.PROMPTS[:4], 8, 0)), 16)
    selected = bits.search(sizes, sensitivity.measure(sd.unet, seen), search.budget(sizes, number))
    mixed = schemes.MixedBits("", {name: c.bits for name, c in selected.items()}, schemes.parse("int8"), number)
    others = sensitivity.spread(list(sensitivity.trajectory(sd, ("a blue tent on yellow sand",), 8, 1000)), 8)
    uniform, better = (
        _error(sd, others, compressor)
        for compressor in (schemes.compressor(f"palettize{number}", "unet"), mixed.compressor("unet"))
    )
    assert 10 * np.log10(uniform / better) >= 1
