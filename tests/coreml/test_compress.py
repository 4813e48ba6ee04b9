"""Theorems of compressed weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coreml.compress import WAYS, choose, palette
from coreml.interpret import Package
from coreml.package import TARGETS
from coreml.tools import Function, Program, ct, mb, quiet, types
from mlx_sd.core.errors import InputError

HALVES = st.floats(-1000, 1000, width=16)
ARRAYS = hnp.arrays(np.float16, hnp.array_shapes(max_dims=4, max_side=8), elements=HALVES)


@given(ARRAYS, st.sampled_from((4, 6, 8)))
def test_every_number_gets_the_nearest_of_the_palette(array, bits):
    lut, indices = palette(array, bits)
    assert lut.shape == (1 << bits,) and indices.shape == array.shape
    assert (np.diff(lut.astype(np.float32)) >= 0).all()
    away = np.abs(lut.astype(np.float32)[:, None] - array.astype(np.float32).ravel())
    chosen = np.abs(lut[indices].astype(np.float32) - array.astype(np.float32)).ravel()
    # Up to the rounding of a center to float16, which may tip the scale between two neighbours.
    assert (chosen <= away.min(axis=0) + 2 * np.spacing(np.abs(lut).max()).astype(np.float32)).all()


@given(hnp.arrays(np.float16, 200, elements=st.sampled_from(np.linspace(-1, 1, 16, dtype=np.float16).tolist())))
def test_few_values_are_kept_exactly(array):
    lut, indices = palette(array, 4)
    assert (lut[indices] == array).all()


@pytest.mark.parametrize(("bits", "decibels"), ((4, 20.22), (6, 31.9), (8, 43.9)))
def test_normal_weights_lose_what_theory_says(bits, decibels):
    """The Lloyd-Max quantizer of a normal density (Max 1960; 20.22 dB at 16 levels)."""
    w = (np.random.default_rng(0).standard_normal(400_000) * 0.02).astype(np.float16)
    lut, indices = palette(w, bits)
    w = w.astype(np.float32)
    assert 10 * np.log10((w**2).mean() / ((lut[indices] - w) ** 2).mean()) == pytest.approx(decibels, abs=0.12)


def package_of(weight: np.ndarray, way: str, target: str, path) -> Package:
    """A package that multiplies by a compressed weight."""
    program = Program()
    place = {"x": mb.placeholder(shape=(1, weight.shape[1], 1, 1), dtype=types.fp16)}
    with Function(place, opset_version=TARGETS[target]) as function:
        compressed = choose(way, target)("w", weight)
        function.set_outputs([mb.conv(x=function.inputs["x"], weight=compressed, name="y")])
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


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("way", WAYS)
def test_a_package_holds_what_was_chosen(way, target, tmp_path):
    weight = np.random.default_rng(1).standard_normal((64, 48, 1, 1)).astype(np.float16)
    got = weights_of(package_of(weight, way, target, tmp_path / "x.mlpackage"), 48)
    if way == "int8":
        scale = np.abs(weight.astype(np.float32)).max(axis=(1, 2, 3), keepdims=True)[:, :, 0, 0] / 127
        assert np.abs(got - weight[:, :, 0, 0].astype(np.float32)).max() <= scale.max() * 0.51
    else:
        lut, indices = palette(weight, int(way[-1]))
        assert (got == lut[indices][:, :, 0, 0]).all()


@settings(max_examples=20)
@given(hnp.arrays(np.float16, (8, 300), elements=HALVES))
def test_int8_is_off_by_half_a_step_of_its_channel(array):
    with Function({}, opset_version=TARGETS["iOS17"]):
        got = choose("int8", "iOS17")("w", array).op.materialized_val_inference().astype(np.float32)
    array = array.astype(np.float32)
    largest = np.abs(array).max(axis=1, keepdims=True)
    # The scale itself is rounded to float16, 127 times over, and so is the product.
    assert (np.abs(got - array) <= largest / 127 * 0.57 + largest * 2**-11 + 1e-4).all()


def test_small_weights_are_left_alone():
    weight = np.ones((4, 4), np.float16)
    assert choose("palettize4", "iOS16")("w", weight) is weight
    assert choose(None, "iOS16")("w", weight) is weight


def test_an_unknown_way_is_refused():
    with pytest.raises(InputError, match="palettize6"):
        choose("zip", "iOS16")
