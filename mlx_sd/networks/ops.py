"""The operations that the networks are written in; an exporter records each of them as one node.

Everything else in the networks is ordinary MLX.

Arrays are channel-last: images (batch, height, width, channels), sequences (batch, tokens, channels).
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from . import cpu, gradients, tuning

Recorder = Callable[[str, Callable[..., mx.array], tuple[mx.array | None, ...], dict[str, Any]], mx.array]

# Head sizes for which Apple's GPUs have a fused attention kernel that MLX chooses by itself, from a version on; and
# those of kernels that it has and does not choose.
_FUSED_HEADS = (((0, 0, 0), (64, 80, 128)), ((0, 32, 1), (64, 72, 80, 96, 128)))
_UNCHOSEN_HEADS = (192, 256)

_SCORES = 1 << 28  # bytes of the scores of one piece of an attention that is not fused

_recorder: Recorder | None = None
_as_on_gpu = False


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Hands every operation to `recorder(name, function, arrays, attributes)` instead of running it, while open.

    No operation is tuned meanwhile: what is recorded is the same on every machine.
    """
    global _recorder
    before, _recorder = _recorder, recorder
    try:
        with tuning.using(tuning.DEFAULT):
            yield
    finally:
        _recorder = before


def recorded() -> bool:
    """Returns whether a recorder sees the operations now, or they are written as for another machine."""
    return _recorder is not None or _as_on_gpu


def _op(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    @wraps(function)
    def call(*arrays: mx.array | None, **attributes: Any) -> mx.array:
        """Runs the operation, or hands it to the recorder."""
        if _recorder is None:
            return function(*arrays, **attributes)
        return _recorder(function.__name__, function, arrays, attributes)

    return call


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Writes operations as for a GPU while it is open, for graphs of networks that another machine will run."""
    global _as_on_gpu
    before, _as_on_gpu = _as_on_gpu, True
    try:
        with tuning.using(tuning.DEFAULT):
            yield
    finally:
        _as_on_gpu = before


def _on_cpu() -> bool:
    return bool(mx.default_device() == mx.cpu) and not _as_on_gpu


@_op
def conv2d(x: mx.array, weight: mx.array, bias: mx.array | None = None, *, stride: int, padding: int) -> mx.array:
    """Convolves x (B, h, w, C) with weight (out, kh, kw, C)."""
    missing = tuning.current().conv_in_channels - x.shape[-1]
    if missing > 0:  # zeros add nothing to a sum
        x, weight = (mx.pad(a, [(0, 0)] * 3 + [(0, missing)]) for a in (x, weight))
    if stride > 1 and _on_cpu():
        y = cpu.strided_conv2d(x, weight, stride, padding)
    else:
        y = mx.conv2d(x, weight, stride=stride, padding=padding)
    return y if bias is None else y + bias


@_op
def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """Returns x W^T + b over the last axis; weight (out, in)."""
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


@_op
def quantized_linear(
    x: mx.array,
    codes: mx.array,
    scales: mx.array,
    offsets: mx.array,
    bias: mx.array | None = None,
    *,
    bits: int,
    group: int,
) -> mx.array:
    """Returns x W^T + b over the last axis, with W = scale code + offset in groups of inputs (`mx.quantize`)."""
    if _on_cpu():  # MLX's kernel for a quantized product takes many times as long there
        y = x @ mx.dequantize(codes, scales, offsets, group_size=group, bits=bits).T
    else:
        y = mx.quantized_matmul(x, codes, scales, offsets, transpose=True, group_size=group, bits=bits)
    return y if bias is None else y + bias


@_op
def group_norm(x: mx.array, weight: mx.array, bias: mx.array, *, groups: int, eps: float) -> mx.array:
    """Normalises x (B, ..., C) for each sample and each of `groups` runs of channels, in float32."""
    batch, channels = x.shape[0], x.shape[-1]
    y = x.reshape(batch, -1, channels).astype(mx.float32)

    def over_group(a: mx.array) -> mx.array:
        """Returns the means over groups; taken per channel first, which needs no transposed copy of the image."""
        mean = a.mean(axis=1).reshape(batch, groups, -1).mean(axis=-1, keepdims=True)
        return mx.broadcast_to(mean, (batch, groups, channels // groups)).reshape(batch, 1, channels)

    y = y - over_group(y)
    y = y * (mx.rsqrt(over_group(y * y) + eps) * weight) + bias
    return y.reshape(x.shape).astype(x.dtype)


@_op
def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, *, eps: float) -> mx.array:
    """Normalises x (..., C) over the last axis."""
    return mx.fast.layer_norm(x, weight, bias, eps)


@_op
def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None, *, scale: float) -> mx.array:
    """Returns softmax(scale q k^T + mask) v for q, k, v (B, heads, tokens, dim); sums and softmax are in float32."""
    return (cpu.attention if _on_cpu() else padded_attention)(q, k, v, mask, scale)


@_op
def upsample(x: mx.array) -> mx.array:
    """Repeats every pixel of x (B, h, w, C) twice in height and width."""
    return mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)


@_op
def image_mean(x: mx.array) -> mx.array:
    """Returns the means (B, 1, 1, C) of x (B, h, w, C) over height and width."""
    return x.mean(axis=(1, 2), keepdims=True)


@_op
def relu(x: mx.array) -> mx.array:
    """Returns max(x, 0), elementwise."""
    return mx.maximum(x, 0)


@_op
def silu(x: mx.array) -> mx.array:
    """Returns x sigmoid(x), elementwise."""
    return cpu.silu(x) if _on_cpu() else gradients.fused(nn.silu, lambda x: x * mx.sigmoid(x), x)


@_op
def gelu(x: mx.array) -> mx.array:
    """Returns x Phi(x), elementwise; Phi is the normal distribution's, not an approximation."""
    return cpu.gelu(x) if _on_cpu() else gradients.fused(nn.gelu, _gelu, x)


def _gelu(x: mx.array) -> mx.array:
    return x * (1 + mx.erf(x / math.sqrt(2))) / 2


@_op
def quick_gelu(x: mx.array) -> mx.array:
    """Returns x sigmoid(1.702 x), elementwise: the activation of OpenAI's CLIP."""
    return cpu.quick_gelu(x) if _on_cpu() else x * mx.sigmoid(1.702 * x)


def padded_attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None, scale: float) -> mx.array:
    """Runs MLX's fused attention on heads padded with zeros to the next size that Apple's GPUs have a kernel for.

    Zeros change no score and no output, and the (tokens x tokens) scores never reach memory; those of heads that no
    kernel takes, as in an autoencoder's middle, reach it a few queries at a time. Padding here, not in the weights,
    costs a copy of q, k and v, which is less than the projections would grow by, and leaves checkpoints, adapters and
    exported models with their true sizes. Heads beyond the largest size that MLX chooses are not padded, unless a
    machine was tuned to.
    """
    dim = q.shape[-1]
    pad = fused_head(dim) - dim
    if pad:
        q, k, v = (mx.pad(a, [(0, 0)] * 3 + [(0, pad)]) for a in (q, k, v))
    attend = partial(mx.fast.scaled_dot_product_attention, scale=scale)
    batch, heads, tokens, _ = q.shape
    rows = max(1, _SCORES // (4 * batch * heads * k.shape[2]))
    if dim + pad in head_sizes() or tokens <= rows:
        return attend(q, k, v, mask=mask)[..., :dim]
    pieces: list[mx.array] = []
    for i in range(0, tokens, rows):
        # Each piece waits for the one before, whose scores are freed by then.
        queries = mx.depends([q[:, :, i : i + rows]], pieces[-1:])[0]
        pieces.append(attend(queries, k, v, mask=mask if mask is None else mask[..., i : i + rows, :]))
    return mx.concatenate(pieces, axis=2)[..., :dim]


@cache
def head_sizes(name: str = "kernels", version: str | None = None) -> tuple[int, ...]:
    """Returns the head sizes to which attention is padded on a GPU, by a name of tuning.HEADS.

    "kernels": those whose fused kernel MLX chooses. "all": also those whose kernel it has, and does not choose.
    version: of MLX; None is this one.
    """
    version = version or str(mx.__version__)  # type: ignore[attr-defined]
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    default = [sizes for since, sizes in _FUSED_HEADS if number >= since][-1]
    return {"kernels": default, "none": (), "all": (*default, *_UNCHOSEN_HEADS)}[name]


def fused_head(dim: int) -> int:
    """Returns the smallest size of heads to pad to that holds `dim`, or `dim` itself beyond the largest."""
    sizes = head_sizes(tuning.current().attention_heads)
    return next((size for size in sizes if size >= dim), dim)
