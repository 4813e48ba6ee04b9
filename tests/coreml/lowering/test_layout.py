"""Theorems of storage: however a value is stored, it reads as the network sees it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreml.lowering.layout import IMAGE, TOKENS, Value, path, plain, reshaped, transposed
from coreml.lowering.lower import Lowering
from coreml.mil.emitter import Emitter, uncompressed
from mlx_sd.networks.graph import Graph

SIZES = st.lists(st.sampled_from((1, 2, 3, 4)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def lowering() -> Lowering:
    return Lowering(Graph(), {}, Emitter(uncompressed), lambda name: np.zeros(0))


def in_network_order(lowering: Lowering, value: Value) -> np.ndarray:
    return lowering.stored(value, tuple(range(len(value.shape))))


def stored_in_any_order(data, array: np.ndarray) -> Value:
    """The array, stored in an order drawn at random, perhaps with an axis of one that only storage has."""
    order = data.draw(st.permutations(range(array.ndim)))
    storage = np.ascontiguousarray(array.transpose(order))
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, array.ndim))
        order.insert(place, None)
        storage = np.expand_dims(storage, place)
    return Value(storage, storage.shape, tuple(order))


def another_shape(data, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Another shape of as many numbers: axes merged, cut at a factor of two, or an axis of one added."""
    new: list[int] = []
    for size in shape:
        if new and data.draw(st.booleans()):
            new[-1] *= size
        elif size == 4 and data.draw(st.booleans()):
            new += [2, 2]
        else:
            new.append(size)
    if data.draw(st.booleans()):
        new.insert(data.draw(st.integers(0, len(new))), 1)
    return tuple(new)


@given(st.data())
def test_transposes_and_reshapes_are_numpys(lowering, data):
    shape = tuple(data.draw(SIZES))
    array = np.arange(np.prod(shape)).reshape(shape)
    value = stored_in_any_order(data, array)
    for _ in range(3):
        if data.draw(st.booleans()):
            perm = data.draw(st.permutations(range(array.ndim)))
            array, value = array.transpose(perm), transposed(value, list(perm))
        else:
            shape = another_shape(data, array.shape)
            array, value = array.reshape(shape), lowering.reshape(value, shape)
        assert value.shape == array.shape
        assert (in_network_order(lowering, value) == array).all()


@given(st.data())
def test_a_free_reshape_moves_nothing(lowering, data):
    shape = tuple(data.draw(SIZES))
    array = np.arange(np.prod(shape)).reshape(shape)
    value = stored_in_any_order(data, array)
    free = reshaped(value, another_shape(data, shape))
    if free is not None:
        assert free.var is value.var
        assert (in_network_order(lowering, free) == array.reshape(free.shape)).all()


@given(st.data())
def test_a_value_can_be_stored_in_any_order(lowering, data):
    shape = tuple(data.draw(SIZES))
    array = np.arange(np.prod(shape)).reshape(shape)
    value = stored_in_any_order(data, array)
    order = data.draw(st.permutations(range(array.ndim)))
    assert (lowering.stored(value, tuple(order)) == array.transpose(order)).all()


@pytest.mark.parametrize("batch", (1, 2))
def test_pixels_become_tokens_and_heads_without_moving(batch):
    image = Value(np.zeros((batch, 12, 4, 6)), (batch, 12, 4, 6), IMAGE)
    tokens = reshaped(image, (batch, 24, 12))
    assert path(tokens, TOKENS)[1] is None
    heads = transposed(reshaped(tokens, (batch, 24, 3, 4)), [0, 2, 1, 3])
    assert path(heads, (0, 1, 3, 2))[1] is None
    assert reshaped(transposed(heads, [0, 2, 1, 3]), (batch, 24, 12)) is not None


def test_a_plain_value_is_stored_in_the_networks_order():
    assert plain(np.zeros((2, 3))).order == (0, 1)
