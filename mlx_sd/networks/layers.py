"""The layers the networks share, over the operations of `ops`."""

import mlx.core as mx
import mlx.nn as nn

from . import ops


class Conv(nn.Conv2d):
    """Square convolution that keeps the size (padding = kernel // 2) or, with stride 2, halves it."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, bias: bool = True):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        return ops.conv2d(x, self.weight, self.get("bias"), stride=self.stride[0], padding=self.padding[0])


class FarPaddedConv(Conv):
    """Halves the size, rounding down; padded on the far sides only, as in the original code."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, stride=2)

    def __call__(self, x: mx.array) -> mx.array:
        x = mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
        return ops.conv2d(x, self.weight, self.bias, stride=2, padding=0)


class Linear(nn.Linear):
    def __call__(self, x: mx.array) -> mx.array:
        return ops.linear(x, self.weight, self.get("bias"))


class QuantizedLinear(nn.Module):
    """A linear layer with its weight in `bits` bits, and a scale and an offset for each `group` of inputs."""

    def __init__(self, inputs: int, outputs: int, bias: bool, bits: int, group: int):
        super().__init__()
        self.bits, self.group = bits, group
        self.weight = mx.zeros((outputs, inputs * bits // 32), dtype=mx.uint32)
        self.scales, self.biases = mx.zeros((outputs, inputs // group)), mx.zeros((outputs, inputs // group))
        if bias:
            self.bias = mx.zeros((outputs,))

    def __call__(self, x: mx.array) -> mx.array:
        given = self.weight, self.scales, self.biases, self.get("bias")
        return ops.quantized_linear(x, *given, bits=self.bits, group=self.group)


class GroupNorm(nn.GroupNorm):
    def __init__(self, dims: int, groups: int, eps: float):
        super().__init__(groups, dims, eps)

    def __call__(self, x: mx.array) -> mx.array:
        return ops.group_norm(x, self.weight, self.bias, groups=self.num_groups, eps=self.eps)


class LayerNorm(nn.LayerNorm):
    def __call__(self, x: mx.array) -> mx.array:
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)


class Attention(nn.Module):
    """Multi-head attention of x (B, N, dims) over `context` (B, M, context dims)."""

    def __init__(self, dims: int, context: int, heads: int, bias: bool = False):
        super().__init__()
        self.heads = heads
        self.q = Linear(dims, dims, bias=bias)
        self.k = Linear(context, dims, bias=bias)
        self.v = Linear(context, dims, bias=bias)
        self.out = Linear(dims, dims)

    def __call__(self, x: mx.array, context: mx.array, mask: mx.array | None = None) -> mx.array:
        q, k, v = self._split(self.q(x)), self._split(self.k(context)), self._split(self.v(context))
        y = ops.attention(q, k, v, mask, scale=q.shape[-1] ** -0.5)
        return self.out(y.transpose(0, 2, 1, 3).reshape(x.shape))

    def _split(self, y: mx.array) -> mx.array:
        batch, tokens, dims = y.shape
        return y.reshape(batch, tokens, self.heads, dims // self.heads).transpose(0, 2, 1, 3)


class ImageAttention(nn.Module):
    """Attention over all pixels of an image (B, H, W, C), around it a residual connection; groups None is no norm."""

    def __init__(self, channels: int, groups: int | None, eps: float, heads: int = 1):
        super().__init__()
        if groups:
            self.norm = GroupNorm(channels, groups, eps)
        self.attention = Attention(channels, channels, heads, bias=True)

    def __call__(self, x: mx.array) -> mx.array:
        y = (self.norm(x) if "norm" in self else x).reshape(x.shape[0], -1, x.shape[-1])
        return x + self.attention(y, y).reshape(x.shape)
