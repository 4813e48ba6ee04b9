"""A part of a batch is computed as it comes out of the batch, also where a product has few rows."""

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_sd.networks import ops
from mlx_sd.networks.few_rows import part_of_batch
from tests.support import splits


def numbers(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


@settings(max_examples=40)
@given(
    rows=st.integers(1, 8),
    parts=st.integers(1, 4),
    tokens=st.sampled_from([None, 1, 2, 3, 5]),
    inputs=st.sampled_from([8, 32, 320]),
    outputs=st.sampled_from([8, 128]),
    bias=st.booleans(),
)
def test_a_product_of_a_part_is_that_of_the_batch(rows, parts, tokens, inputs, outputs, bias):
    batch = rows * parts
    x = numbers(0, batch, *([] if tokens is None else [tokens]), inputs)
    weight, offset = numbers(1, outputs, inputs), numbers(2, outputs) if bias else None
    expected = ops.linear(x, weight, offset)
    for part in range(parts):
        here = slice(part * rows, (part + 1) * rows)
        with part_of_batch(rows, batch):
            assert splits.same(ops.linear(x[here], weight, offset), expected[here])


@pytest.mark.parametrize("side, stride", [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_convolutions_of_small_pictures_too(side, stride):
    x, weight = numbers(0, 4, side, side, 128), numbers(1, 192, 3, 3, 128)
    expected = ops.conv2d(x, weight, stride=stride, padding=1)
    for rows in (1, 2):
        with part_of_batch(rows, 4):
            assert splits.same(ops.conv2d(x[:rows], weight, stride=stride, padding=1), expected[:rows])


def test_quantized_products_too():
    weight = numbers(1, 64, 64)
    codes, scales, offsets = mx.quantize(weight, group_size=32, bits=8)
    x = numbers(0, 4, 64)
    expected = ops.quantized_linear(x, codes, scales, offsets, None, bits=8, group=32)
    with part_of_batch(2, 4):
        part = ops.quantized_linear(x[:2], codes, scales, offsets, None, bits=8, group=32)
    assert splits.same(part, expected[:2])


@pytest.mark.parametrize("rows, batch, repeated", [(2, 4, True), (1, 2, False), (4, 8, False), (3, 6, True)])
def test_rows_are_repeated_only_where_few_become_many(rows, batch, repeated):
    shapes = []

    def noted(x: mx.array, weight: mx.array) -> mx.array:
        shapes.append(x.shape)
        return x @ weight.T

    with part_of_batch(rows, batch):
        y = ops._recorder("linear", noted, (numbers(0, rows, 8), numbers(1, 8, 8)), {})
    assert shapes == [(batch if repeated else rows, 8)] and y.shape == (rows, 8)


def test_other_operations_and_other_numbers_of_rows_are_left_alone():
    x = numbers(0, 3, 8)
    with part_of_batch(2, 4):
        assert mx.array_equal(ops.silu(x), ops.silu.__wrapped__(x))
        assert mx.array_equal(ops.linear(x, x), ops.linear.__wrapped__(x, x))
    assert ops._recorder is None
