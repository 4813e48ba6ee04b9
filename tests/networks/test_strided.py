"""A strided convolution on the CPU has MLX's own result, and the gradients that MLX computes slowly."""

import mlx.core as mx
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from mlx_sd.networks import cpu


@given(
    sides=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.integers(1, 5),
    stride=st.integers(2, 4),
    padding=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_gradients_are_those_of_the_convolution(sides, kernel, stride, padding, seed):
    assume(min(sides) + 2 * padding >= kernel)
    x, weight = (mx.random.normal(shape, key=mx.random.key(seed)) for shape in ((2, *sides, 3), (5, kernel, kernel, 3)))

    def plain(x, weight):
        """Returns MLX's own convolution."""
        return mx.conv2d(x, weight, stride=stride, padding=padding)

    y = plain(x, weight)
    cotangent = mx.random.normal(y.shape, key=mx.random.key(seed + 1))
    [result], ours = mx.vjp(lambda x, weight: cpu.strided_conv2d(x, weight, stride, padding), [x, weight], [cotangent])
    _, theirs = mx.vjp(plain, [x, weight], [cotangent])
    assert np.array_equal(result, y)
    for gradient, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-4)
