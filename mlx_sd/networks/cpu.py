"""Operations for MLX's CPU back end: attention, activations, and the gradient of strided convolutions.

It computes exp and erf one element at a time. Here they are made of additions, multiplications and shifts, which it
vectorises, on pieces that stay in the cache: three to five times faster on x86. Each piece waits for the one before:
MLX would begin twenty of them at once. On a GPU `ops` uses MLX's own functions. Shifts of bits have no gradient, so
each function comes with its own, which is computed in the same way.
"""

from collections.abc import Callable, Sequence
from functools import partial, wraps

import mlx.core as mx

from . import gradients
from .tuning import current

_LOG2E = 1.4426950408889634
_ROUND = 1.5 * 2**23  # adding it rounds to an integer, left in the low bits of the float
# 2**f on [-1/2, 1/2], minimax of relative error 8e-8, highest power first
_EXP2 = (0.00132764718, 0.00967554133, 0.0555071327, 0.240221197, 0.693146967, 1.00000007)
# erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7
_HALF_ROOT, _NORMAL = 0.7071067811865476, 0.3989422804014327  # 1 / sqrt(2), 1 / sqrt(2 pi)
_ERF_P, _ERF = 0.3275911, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)

Elementwise = Callable[[mx.array], mx.array]


def _differentiable(slope: Elementwise) -> Callable[[Elementwise], Elementwise]:
    """Gives an elementwise function its gradient, whose slope is another one."""

    def decorate(function: Elementwise) -> Elementwise:
        """Returns the function with its gradient."""

        @wraps(function)
        def call(x: mx.array) -> mx.array:
            """Applies the function as one operation of MLX, whose vector-Jacobian product is known."""
            return gradients.call(function, lambda xs, cotangent, _: [cotangent * slope(xs[0])], x)

        return call

    return decorate


def _elementwise(function: Elementwise) -> Elementwise:
    """Makes a function of float32 run piece by piece, fused on large arrays, and return its argument's dtype."""
    fused: Elementwise = mx.compile(function)

    @wraps(function)
    def call(x: mx.array) -> mx.array:
        """Applies the function piece by piece."""
        flat = x.astype(mx.float32).reshape(-1)
        piece, fuse_from = current().piece, current().fuse_from
        run = partial(gradients.fused, fused, function) if flat.size >= fuse_from else function
        pieces: list[mx.array] = []
        for i in range(0, flat.size, piece):
            pieces.append(run(_after(flat[i : i + piece], pieces[-1:])))
        y = pieces[0] if len(pieces) == 1 else mx.concatenate(pieces)
        return y.reshape(x.shape).astype(x.dtype)

    return call


@_elementwise
def _silu_slope(x: mx.array) -> mx.array:
    return _swish_slope(x, 1.0)


@_differentiable(_silu_slope)
@_elementwise
def silu(x: mx.array) -> mx.array:
    """Returns x sigmoid(x), elementwise."""
    return x / (1 + exp(-x))


@_elementwise
def _gelu_slope(x: mx.array) -> mx.array:
    return 0.5 * (1 + _erf(x * _HALF_ROOT)) + x * (_NORMAL * exp(-0.5 * x * x))


@_differentiable(_gelu_slope)
@_elementwise
def gelu(x: mx.array) -> mx.array:
    """Returns x Phi(x), elementwise, with Phi from erf."""
    return 0.5 * x * (1 + _erf(x * _HALF_ROOT))


@_elementwise
def _quick_gelu_slope(x: mx.array) -> mx.array:
    return _swish_slope(x, 1.702)


@_differentiable(_quick_gelu_slope)
@_elementwise
def quick_gelu(x: mx.array) -> mx.array:
    """Returns x sigmoid(1.702 x), elementwise."""
    return x / (1 + exp(-1.702 * x))


def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None, scale: float) -> mx.array:
    """Returns softmax(scale q k^T + mask) v, a few queries at a time so that the scores stay in the cache.

    q, k, v: (B, heads, tokens, dim); mask: (queries, keys), without a gradient. Computed in float32; the result has q's
    dtype. The gradient computes the scores again, a few queries at a time, and keeps none of them.
    """

    def function(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Returns the attention of q to k and v."""
        return _attention(q, k, v, mask, scale)

    def gradient(qkv: Sequence[mx.array], cotangent: mx.array, y: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Returns the gradients of queries, keys and values."""
        return _attention_gradient(qkv, mask, scale, y, cotangent)

    return gradients.call(function, gradient, q, k, v)


def strided_conv2d(x: mx.array, weight: mx.array, stride: int, padding: int) -> mx.array:
    """Convolves x (B, h, w, C) with weight (out, kh, kw, C), as `mx.conv2d` does, with its own gradient.

    MLX's of the input is very slow. The pixels of the input whose rows, and whose columns, have one remainder when
    divided by the stride are reached by every second weight alone (by every third with stride 3). So their gradient is
    a convolution without stride of the result's by these weights, turned around.
    """

    def function(x: mx.array, weight: mx.array) -> mx.array:
        """Returns the convolution."""
        return mx.conv2d(x, weight, stride=stride, padding=padding)

    def gradient(arrays: Sequence[mx.array], cotangent: mx.array, _: mx.array) -> list[mx.array]:
        """Returns the gradients of x and of the weight; MLX's own of the weight is fast."""
        x, weight = arrays
        of_weight = gradients.vjp(lambda weight: function(x, weight), [weight], cotangent)
        return [_gradient_of_input(x.shape, weight, cotangent, stride, padding), *of_weight]

    return gradients.call(function, gradient, x, weight)


def _after(x: mx.array, earlier: Sequence[mx.array]) -> mx.array:
    """Returns x for what shall be computed after other arrays, when their memory is free again."""
    return mx.depends([x], list(earlier))[0] if earlier else x


def exp(x: mx.array) -> mx.array:
    """Returns e**x in float32, elementwise and clamped to the finite range; relative error at most 1e-7 (4 + |x|)."""
    return _exp2(mx.minimum(x, 88.0) * _LOG2E)


def _attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None, scale: float) -> mx.array:
    dtype, (batch, heads, tokens, _) = q.dtype, q.shape
    q, k, v = (a.astype(mx.float32) for a in (q, k, v))
    q, k = q * (scale * _LOG2E), gradients.contiguous(k)  # else each piece below would copy k anew
    mask = None if mask is None else mask.astype(mx.float32) * _LOG2E
    v = mx.concatenate([v, mx.ones((*v.shape[:3], 1))], axis=-1)  # one more column sums the weights
    scores = batch * heads * tokens * k.shape[2]
    tuning = current()
    if scores <= tuning.scores:
        y = _attend(q, k, v, mask, _powers)
    else:
        rows, powers = max(1, tuning.scores // k.shape[2]), _fused_powers if scores >= tuning.fuse_from else _powers
        pieces: list[mx.array] = []
        for b in range(batch):
            for h in range(heads):
                for i in range(0, tokens, rows):
                    queries = _after(q[b, h, i : i + rows], pieces[-1:])
                    masked = mask if mask is None else mask[i : i + rows]
                    pieces.append(_attend(queries, k[b, h], v[b, h], masked, powers))
        y = mx.concatenate(pieces).reshape(batch, heads, tokens, -1)
    return (y[..., :-1] / y[..., -1:]).astype(dtype)


def _attention_gradient(
    qkv: Sequence[mx.array], mask: mx.array | None, scale: float, y: mx.array, cotangent: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Returns the gradients of q, k and v, in their dtypes, for the attention y and its cotangent."""
    dtypes, shape = [a.dtype for a in qkv], qkv[0].shape
    q, k, v, y, cotangent = (a.astype(mx.float32) for a in (*qkv, y, cotangent))
    mask = None if mask is None else mask.astype(mx.float32) * _LOG2E
    shares = (y * cotangent).sum(axis=-1, keepdims=True)
    (batch, heads, tokens, _), keys = shape, k.shape[2]
    most = current().scores
    if batch * heads * tokens * keys <= most:
        dq, dk, dv = _attend_gradient(q, k, v, mask, scale, shares, cotangent)
    else:
        rows = max(1, most // keys)
        by_head: list[tuple[mx.array, mx.array, mx.array]] = []
        before: list[mx.array] = []
        for b in range(batch):
            for h in range(heads):
                of_q: list[mx.array] = []
                of_k = of_v = mx.array(0.0)
                for i in range(0, tokens, rows):
                    here = slice(i, i + rows)
                    queries, masked = _after(q[b, h, here], before), mask if mask is None else mask[here]
                    arrays = queries, k[b, h], v[b, h], masked, scale, shares[b, h, here], cotangent[b, h, here]
                    piece, of_keys, of_values = _attend_gradient(*arrays)
                    of_q.append(piece)
                    of_k, of_v = (of_k + of_keys, of_v + of_values) if i else (of_keys, of_values)
                    before = [piece, of_k, of_v]
                by_head.append((mx.concatenate(of_q), of_k, of_v))
        stacked = [mx.stack([parts[i] for parts in by_head]) for i in range(3)]
        dq, dk, dv = stacked[0].reshape(q.shape), stacked[1].reshape(k.shape), stacked[2].reshape(v.shape)
    return dq.astype(dtypes[0]), dk.astype(dtypes[1]), dv.astype(dtypes[2])


def _attend_gradient(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    mask: mx.array | None,
    scale: float,
    shares: mx.array,
    cotangent: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    # With weights P = softmax(S), S = scale q k^T: dS = P (cotangent v^T - shares), shares = sum of y cotangent.
    scores = (q * (scale * _LOG2E)) @ k.swapaxes(-1, -2)
    if mask is not None:
        scores = scores + mask
    powers = _powers(scores, scores.max(axis=-1, keepdims=True))
    weights = powers / powers.sum(axis=-1, keepdims=True)
    slopes = weights * (cotangent @ v.swapaxes(-1, -2) - shares)
    return scale * (slopes @ k), scale * (slopes.swapaxes(-1, -2) @ q), weights.swapaxes(-1, -2) @ cotangent


def _attend(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None, powers: Callable[..., mx.array]) -> mx.array:
    scores = q @ k.swapaxes(-1, -2)
    if mask is not None:
        scores = scores + mask
    return powers(scores, scores.max(axis=-1, keepdims=True)) @ v


def _powers(scores: mx.array, maximum: mx.array) -> mx.array:
    return _exp2(scores - maximum)


_compiled_powers: Callable[..., mx.array] = mx.compile(_powers)


def _fused_powers(scores: mx.array, maximum: mx.array) -> mx.array:
    return gradients.fused(_compiled_powers, _powers, scores, maximum)


def _exp2(z: mx.array) -> mx.array:
    # 2**z for z <= 127: the integer part goes into the float's exponent, the fraction through a polynomial.
    z = mx.maximum(z, -126.0)
    rounded = z + _ROUND
    power = _horner(_EXP2, z - (rounded - _ROUND))
    return (power.view(mx.int32) + (rounded.view(mx.int32) << 23)).view(mx.float32)


def _erf(x: mx.array) -> mx.array:
    t = 1 / (1 + _ERF_P * mx.abs(x))
    return mx.sign(x) * (1 - _horner(_ERF, t) * t * exp(-x * x))


def _swish_slope(x: mx.array, factor: float) -> mx.array:
    sigmoid = 1 / (1 + exp(-factor * x))
    return sigmoid * (1 + factor * x * (1 - sigmoid))


def _horner(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    y = coefficients[0] * x + coefficients[1]
    for c in coefficients[2:]:
        y = y * x + c
    return y


def _gradient_of_input(
    shape: Sequence[int], weight: mx.array, cotangent: mx.array, stride: int, padding: int
) -> mx.array:
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
