"""A saved package multiplies by the compressed numbers, in the form of each system."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coreml.compression import schemes
from coreml.interpret.package import Package
from coreml.mil.coremltools import Function, Program, ct, mb, quiet, types
from coreml.mil.emitter import weights
from coreml.mil.package import TARGETS
from mlx_sd.core.errors import InputError

HALVES = st.floats(-1000, 1000, width=16)


def package_of(weight: np.ndarray, compression: str, target: str, path) -> Package:
    """A package that multiplies by a compressed weight."""
    program = Program()
    place = {"x": mb.placeholder(shape=(1, weight.shape[1], 1, 1), dtype=types.fp16)}
    with Function(place, opset_version=TARGETS[target]) as function:
        argument = weights(compression, target)("w", weight)
        function.set_outputs([mb.conv(x=function.inputs["x"], weight=argument, name="y")])
        program.add_function("main", function)
    with quiet():
        ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=TARGETS[target],
            package_dir=str(path),
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
    return Package.load(path)


def weights_of(package: Package, inputs: int) -> np.ndarray:
    """Column by column, what the package multiplies by."""
    unit = np.eye(inputs, dtype=np.float16).reshape(inputs, 1, inputs, 1, 1)
    return np.stack([package.run({"x": x})["y"].ravel() for x in unit], axis=1)


OLD = ("palettize1", "palettize2", "palettize4", "palettize6", "palettize8", "int8", "sparse50")
NEW = ("palettize3", "palettize4:16", "palettize1:32", "int4", "int8:16", "int4:16")
FORMS = [(name, target) for name in OLD for target in TARGETS] + [(name, "iOS18") for name in NEW]


@pytest.mark.parametrize(("compression", "target"), FORMS)
def test_a_package_multiplies_by_the_compressed_numbers(compression, target, tmp_path):
    weight = np.random.default_rng(1).standard_normal((64, 48, 1, 1)).astype(np.float16)
    result = weights_of(package_of(weight, compression, target, tmp_path / "x.mlpackage"), 48)
    expected = schemes.parse(compression).compress(weight).dense()[:, :, 0, 0].astype(np.float32)
    assert np.abs(result - expected).max() <= 1e-3 * np.abs(expected).max()
    assert np.abs(result - weight[:, :, 0, 0]).max() > 0


@pytest.mark.parametrize("compression", NEW)
@pytest.mark.parametrize("target", ("iOS16", "iOS17"))
def test_what_came_with_ios_18_is_refused_for_older_systems(compression, target):
    with pytest.raises(InputError, match=f"{compression} needs --target iOS18, not {target}"):
        weights(compression, target)


@given(hnp.arrays(np.float16, (8, 300), elements=HALVES))
def test_int8_is_off_by_half_a_step_of_its_channel(array):
    with Function({}, opset_version=TARGETS["iOS17"]):
        result = weights("int8", "iOS17")("w", array).op.materialized_val_inference().astype(np.float32)
    array = array.astype(np.float32)
    largest = np.abs(array).max(axis=1, keepdims=True)
    # The scale itself is rounded to float16, 127 times over, and so is the product.
    assert (np.abs(result - array) <= largest / 127 * 0.57 + largest * 2**-11 + 1e-4).all()


def test_small_weights_are_left_alone():
    weight = np.ones((4, 4), np.float16)
    assert weights("palettize4", "iOS16")("w", weight) is weight
    assert weights(None, "iOS16")("w", weight) is weight


def test_an_unknown_compression_is_refused():
    with pytest.raises(InputError, match=r"unknown compression .zip."):
        weights("zip", "iOS16")
