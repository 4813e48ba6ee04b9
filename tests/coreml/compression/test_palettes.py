"""Palettes hold the nearest values, and lose what theory says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coreml.compression.palettes import palettize
from coreml.compression.schemes import PALETTE_BITS

HALVES = st.floats(-1000, 1000, width=16)
ARRAYS = hnp.arrays(np.float16, hnp.array_shapes(max_dims=4, max_side=8), elements=HALVES)


@given(ARRAYS, st.sampled_from(PALETTE_BITS))
def test_every_number_gets_the_nearest_of_the_palettize(array, bits):
    lut, indices = palettize(array, bits)
    assert lut.shape == (1 << bits,) and indices.shape == array.shape
    assert (np.diff(lut.astype(np.float32)) >= 0).all()
    distances = np.abs(lut.astype(np.float32)[:, None] - array.astype(np.float32).ravel())
    distance = np.abs(lut[indices].astype(np.float32) - array.astype(np.float32)).ravel()
    # Up to the rounding of a center to float16, which may tip the scale between two neighbours.
    assert (distance <= distances.min(axis=0) + 2 * np.spacing(np.abs(lut).max()).astype(np.float32)).all()


@given(hnp.arrays(np.float16, 200, elements=st.sampled_from(np.linspace(-1, 1, 16, dtype=np.float16).tolist())))
def test_few_values_are_stored_exactly(array):
    lut, indices = palettize(array, 4)
    assert (lut[indices] == array).all()


@pytest.mark.parametrize(("bits", "decibels"), ((1, 4.40), (2, 9.30), (3, 14.62), (4, 20.22), (6, 31.9), (8, 43.9)))
def test_normal_weights_lose_what_theory_says(bits, decibels):
    """The Lloyd-Max quantizer of a normal density (Max 1960; 20.22 dB at 16 levels)."""
    w = (np.random.default_rng(0).standard_normal(400_000) * 0.02).astype(np.float16)
    lut, indices = palettize(w, bits)
    w = w.astype(np.float32)
    assert 10 * np.log10((w**2).mean() / ((lut[indices] - w) ** 2).mean()) == pytest.approx(decibels, abs=0.12)
