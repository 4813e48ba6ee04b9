"""Every compression multiplies in Apple's runtime by the numbers that its description stands for."""

import numpy as np
import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from coreml.compression.schemes import compressor, parse
from coreml.coreai.constants import compress
from coreml.coreai.emitter import Emitter
from coreml.coreai.runtime import Runtime
from tests.support import core_ai

SCHEMES = (
    *(f"palettize{bits}" for bits in (1, 2, 3, 4, 6, 8)),
    "palettize4:16",
    "int8",
    "int4",
    "int8:32",
    "int4:32",
    "sparse50",
)
MATRIX = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float16)
KERNEL = np.random.default_rng(1).standard_normal((32, 32, 3, 3)).astype(np.float16)
EYE = np.eye(96, dtype=np.float16)
IMAGE = np.zeros((32 * 9, 32, 3, 3), np.float16)  # one number each: a valid convolution reads one weight
IMAGE.reshape(32 * 9, -1)[np.arange(32 * 9), np.arange(32 * 9)] = 1


def name(scheme: str) -> str:
    return scheme.replace(":", "_")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """(scheme, layer) -> the weights that a layer multiplies by; all in one asset."""
    functions = {}
    for scheme in SCHEMES:
        emitter = Emitter(compress(compressor(scheme, "unet")))
        layers = {
            "linear": ({"x": EYE}, lambda _, x, e=emitter: e.linear(x=x, weight=e.weight("w", MATRIX))),
            "conv": ({"x": IMAGE}, lambda _, x, e=emitter: e.conv(x=x, weight=e.weight("w", KERNEL))),
        }
        functions |= {f"{layer}_{name(scheme)}": function for layer, function in layers.items()}
    path = tmp_path_factory.mktemp("constants") / "constants.aimodel"
    core_ai.write(functions, path)
    runtime = Runtime(path)
    yield {key: runtime.run(key, arrays)["y"] for key, (arrays, _) in functions.items()}
    runtime.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_multiplies_by_the_described_numbers(scheme, results):
    for layer, weight in (("linear", MATRIX), ("conv", KERNEL)):
        description = parse(scheme).compress(weight)
        expected = description.dense().reshape(len(weight), -1).T.astype(np.float32)
        result = results[f"{layer}_{name(scheme)}"].reshape(expected.shape).astype(np.float32)
        assert np.abs(result - expected).max() <= 1e-3 * np.abs(expected).max()  # rounding of a scaled integer
        assert not np.array_equal(expected, weight.reshape(len(weight), -1).T)  # it is compressed


def test_small_weights_stay_as_they_are():
    weight = np.ones((8, 8), np.float16)
    assert Emitter(compress(compressor("palettize4", "unet"))).weight("w", weight) is weight
