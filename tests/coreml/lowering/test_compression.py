"""Palettes hold the nearest values, and lose what theory says; int8 is off by half a step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coreml.lowering.compression import palette

HALVES = st.floats(-1000, 1000, width=16)
ARRAYS = hnp.arrays(np.float16, hnp.array_shapes(max_dims=4, max_side=8), elements=HALVES)


@given(ARRAYS, st.sampled_from((4, 6, 8)))
def test_every_number_gets_the_nearest_of_the_palette(array, bits):
    lut, indices = palette(array, bits)
    assert lut.shape == (1 << bits,) and indices.shape == array.shape
    assert (np.diff(lut.astype(np.float32)) >= 0).all()
    distances = np.abs(lut.astype(np.float32)[:, None] - array.astype(np.float32).ravel())
    distance = np.abs(lut[indices].astype(np.float32) - array.astype(np.float32)).ravel()
    # Up to the rounding of a center to float16, which may tip the scale between two neighbours.
    assert (distance <= distances.min(axis=0) + 2 * np.spacing(np.abs(lut).max()).astype(np.float32)).all()


@given(hnp.arrays(np.float16, 200, elements=st.sampled_from(np.linspace(-1, 1, 16, dtype=np.float16).tolist())))
def test_few_values_are_stored_exactly(array):
    lut, indices = palette(array, 4)
    assert (lut[indices] == array).all()


@pytest.mark.parametrize(("bits", "decibels"), ((4, 20.22), (6, 31.9), (8, 43.9)))
def test_normal_weights_lose_what_theory_says(bits, decibels):
    """The Lloyd-Max quantizer of a normal density (Max 1960; 20.22 dB at 16 levels)."""
    w = (np.random.default_rng(0).standard_normal(400_000) * 0.02).astype(np.float16)
    lut, indices = palette(w, bits)
    w = w.astype(np.float32)
    assert 10 * np.log10((w**2).mean() / ((lut[indices] - w) ** 2).mean()) == pytest.approx(decibels, abs=0.12)
