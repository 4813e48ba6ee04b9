"""What does not fit into memory is said before it is begun, with what would fit."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_sd import memory
from mlx_sd.core.errors import InputError


@pytest.fixture(scope="module")
def model(family):
    return family("sd1").model


@settings(deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), batch=st.integers(1, 4))
def test_what_is_said_to_fit_fits_and_twice_as_much_does_not(model, width, height, batch):
    have, size = memory.needed(model, 4000, 4000), (8 * width, 8 * height)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available", lambda: have)
        if memory.needed(model, *size, batch) <= have:
            return memory.check(model, *size, batch)
        with pytest.raises(InputError, match="need about") as error:
            memory.check(model, *size, batch)
        found = re.search(r"(\d+) x (\d+) would fit", str(error.value))
        if found:  # else too narrow for one latent
            fits = int(found[1]), int(found[2])
            assert (
                memory.needed(model, *fits, batch) <= have < memory.needed(model, fits[0] * 2, fits[1] * 2 + 8, batch)
            )


def test_it_is_said_before_anything_is_computed(family, model, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: memory.needed(model, 512, 512))
    with pytest.raises(InputError, match=r"pictures of 1024 x 1024 need about .*; 512 x 512 would fit"):
        family("sd1").generate("x", width=1024, height=1024)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(InputError, match="none of any size would fit"):
        family("sd1").generate("x", width=64, height=64)
