"""The layers that the networks share; they compute through the operations of `ops`, which an exporter can record."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from . import ops
from .beside import Beside, added

Added = Callable[[mx.array], mx.array]  # (B, heads, N, dim) -> the same shape


class Conv(nn.Conv2d):
    """A square convolution, (B, h, w, inputs) -> (B, h, w, outputs); with stride 2 it halves h and w, rounding up."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, bias: bool = True):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=bias)

    beside: Beside | None = None  # what adapters add at run time

    def __call__(self, x: mx.array) -> mx.array:
        """Returns the convolution of x (B, h, w, inputs), padded by half a kernel on all sides."""
        return added(self, x, self.convolved(x, self.weight, self.get("bias")), self.convolved)

    def convolved(self, x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
        """Returns the convolution of x with a weight (outputs, h, w, inputs), by this layer's stride and padding."""
        return ops.conv2d(x, weight, bias, stride=self.stride[0], padding=self.padding[0])


class FarPaddedConv(Conv):
    """A convolution that halves h and w, rounding down: padded at the bottom and right only, as in CompVis' code."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, stride=2)

    def convolved(self, x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
        """Returns (B, h / 2, w / 2, outputs) of x (B, h, w, C)."""
        x = mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
        return ops.conv2d(x, weight, bias, stride=2, padding=0)


class Linear(nn.Linear):
    """A linear layer, (..., inputs) -> (..., outputs)."""

    beside: Beside | None = None  # what adapters add at run time

    def __call__(self, x: mx.array) -> mx.array:
        """Returns x W^T + b over the last axis."""
        return added(self, x, ops.linear(x, self.weight, self.get("bias")), ops.linear)


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is stored in `bits` bits, with a scale and an offset for each `group` of inputs.

    weight holds the codes, 32 bits of them in a word; scales and biases are named as MLX names them.
    """

    beside: Beside | None = None  # what adapters add at run time

    def __init__(self, inputs: int, outputs: int, bias: bool, bits: int, group: int):
        super().__init__()
        self.bits, self.group = bits, group
        self.weight = mx.zeros((outputs, inputs * bits // 32), dtype=mx.uint32)
        self.scales, self.biases = mx.zeros((outputs, inputs // group)), mx.zeros((outputs, inputs // group))
        if bias:
            self.bias = mx.zeros((outputs,))

    def __call__(self, x: mx.array) -> mx.array:
        """Returns x W^T + b over the last axis."""
        parameters = self.weight, self.scales, self.biases, self.get("bias")
        return added(self, x, ops.quantized_linear(x, *parameters, bits=self.bits, group=self.group), ops.linear)


class GroupNorm(nn.GroupNorm):
    """Group normalisation with a scale and an offset for each channel (Wu and He 2018)."""

    def __init__(self, dims: int, groups: int, eps: float):
        super().__init__(groups, dims, eps)

    def __call__(self, x: mx.array) -> mx.array:
        """Returns x (B, ..., dims) normalised for each sample and group; computed in float32, in x's dtype."""
        return ops.group_norm(x, self.weight, self.bias, groups=self.num_groups, eps=self.eps)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation with a scale and an offset for each feature."""

    def __call__(self, x: mx.array) -> mx.array:
        """Returns x (..., dims) normalised over the last axis."""
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)


class Attention(nn.Module):
    """Multi-head attention of a sequence to a context (Vaswani et al. 2017); the output is projected.

    bias: whether queries, keys and values have one; out_bias: whether the output's projection does.
    """

    def __init__(self, dims: int, context: int, heads: int, bias: bool = False, out_bias: bool = True):
        super().__init__()
        self.heads = heads
        self.q = Linear(dims, dims, bias=bias)
        self.k = Linear(context, dims, bias=bias)
        self.v = Linear(context, dims, bias=bias)
        self.out = Linear(dims, dims, bias=out_bias)

    def __call__(
        self, x: mx.array, context: mx.array, mask: mx.array | None = None, added: Added | None = None
    ) -> mx.array:
        """Returns (B, N, dims) for x (B, N, dims) and context (B, M, context width); mask (N, M) is added to scores.

        added: what it makes of the queries (B, heads, N, dims / heads) is added before the projection of the output.
        """
        q, k, v = self._split(self.q(x)), self._split(self.k(context)), self._split(self.v(context))
        y = ops.attention(q, k, v, mask, scale=q.shape[-1] ** -0.5)
        if added is not None:
            y = y + added(q)
        return self.out(y.transpose(0, 2, 1, 3).reshape(x.shape))

    def _split(self, y: mx.array) -> mx.array:
        batch, tokens, dims = y.shape
        return y.reshape(batch, tokens, self.heads, dims // self.heads).transpose(0, 2, 1, 3)


class ImageAttention(nn.Module):
    """Self-attention over the pixels of an image, with a residual connection; groups=None leaves out the norm."""

    def __init__(self, channels: int, groups: int | None, eps: float, heads: int = 1):
        super().__init__()
        if groups:
            self.norm = GroupNorm(channels, groups, eps)
        self.attention = Attention(channels, channels, heads, bias=True)

    def __call__(self, x: mx.array) -> mx.array:
        """Returns (B, h, w, C) of x (B, h, w, C)."""
        y = (self.norm(x) if "norm" in self else x).reshape(x.shape[0], -1, x.shape[-1])
        return x + self.attention(y, y).reshape(x.shape)
