"""Strided convolutions for MLX's CPU back end, whose gradient of their input is very slow.

The pixels of the input whose rows, and whose columns, have one remainder when divided by the stride are reached by
every second weight alone (by every third with stride 3). So their gradient is a convolution without stride of the
result's by these weights, turned around; the others are computed in the same way and put between them.
"""

from collections.abc import Sequence

import mlx.core as mx

from . import gradients


def conv2d(x: mx.array, weight: mx.array, stride: int, padding: int) -> mx.array:
    """Convolves x (B, h, w, C) with weight (out, kh, kw, C), as `mx.conv2d` does, with its own gradient."""

    def function(x: mx.array, weight: mx.array) -> mx.array:
        """Returns the convolution."""
        return mx.conv2d(x, weight, stride=stride, padding=padding)

    def gradient(arrays: Sequence[mx.array], cotangent: mx.array, _: mx.array) -> list[mx.array]:
        """Returns the gradients of x and of the weight; MLX's own of the weight is fast."""
        x, weight = arrays
        of_weight = gradients.vjp(lambda weight: function(x, weight), [weight], cotangent)
        return [_of_input(x.shape, weight, cotangent, stride, padding), *of_weight]

    return gradients.call(function, gradient, x, weight)


def _of_input(shape: Sequence[int], weight: mx.array, cotangent: mx.array, stride: int, padding: int) -> mx.array:
    """Returns the gradient of an input of this shape (B, h, w, C) for the cotangent (B, h', w', out) of the result."""
    batch, height, width, channels = shape
    rows, columns = (-(-(side + 2 * padding) // stride) for side in (height, width))  # of each remainder, padded
    phases = [
        _phase(weight[:, i::stride, j::stride], cotangent, rows, columns) for i in range(stride) for j in range(stride)
    ]
    y = mx.stack(phases).reshape(stride, stride, batch, rows, columns, channels).transpose(2, 3, 0, 4, 1, 5)
    y = y.reshape(batch, rows * stride, columns * stride, channels)
    return y[:, padding : padding + height, padding : padding + width]


def _phase(weight: mx.array, cotangent: mx.array, rows: int, columns: int) -> mx.array:
    """Returns the gradient of the padded pixels of one pair of remainders, (B, rows, columns, C)."""
    _, down, right, channels = weight.shape
    if not down or not right:  # a kernel smaller than the stride does not reach them
        return mx.zeros((cotangent.shape[0], rows, columns, channels), cotangent.dtype)
    turned = weight[:, ::-1, ::-1].transpose(3, 1, 2, 0)
    y = mx.conv2d(cotangent, turned, padding=(down - 1, right - 1))
    missing = [(0, 0), (0, max(rows - y.shape[1], 0)), (0, max(columns - y.shape[2], 0)), (0, 0)]
    return mx.pad(y, missing)[:, :rows, :columns]  # pixels beyond the last step of the kernel have none
