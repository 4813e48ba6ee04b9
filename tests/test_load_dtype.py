"""A dtype that is misspelled gets the nearest right one, before anything is loaded."""

import mlx.core as mx
import pytest

from mlx_sd import InputError, StableDiffusion


@pytest.mark.parametrize(("dtype", "nearest"), [("flot16", "float16"), ("bfloat", "bfloat16"), ("floatt32", "float32")])
def test_a_misspelled_dtype_gets_the_nearest_one(dtype, nearest):
    with pytest.raises(InputError, match=f"unknown dtype '{dtype}'; did you mean '{nearest}'"):
        StableDiffusion.load("no model of this name", dtype=dtype)


def test_other_programs_words_for_a_dtype_are_taken():
    assert StableDiffusion.load("tiny", dtype="fp32").model.dtype == mx.float32
