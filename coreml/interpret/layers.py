"""MIL's convolutions, products, normalisations, activations and resizings, in float32 on the CPU.

Images are channel-first (B, C, H, W). Parameters have MIL's names and defaults. `operations` has the table.
"""

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_sd.networks import cpu

Array = mx.array


def ints(values: Array) -> list[int]:
    """Returns the numbers of a vector as a list of Python integers."""
    return [int(v) for v in np.array(values)]


def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array | int = 1,
) -> Array:
    """Convolves (B, C, *spatial) with weight (out, C / groups, *kernel); "same" pads more at the end."""
    dims = x.ndim - 2
    steps = [1] * dims if strides is None else ints(strides)
    spread = [1] * dims if dilations is None else ints(dilations)
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], spread, strict=True)]
    pads = _pads(pad_type, x.shape[2:], reach, steps, None if pad is None else ints(pad))
    if math.prod(weight.shape[2:] + tuple(steps)) == 1 and int(groups) == 1 and not any(map(sum, pads)):
        y = weight.reshape(weight.shape[:2]) @ x.reshape(*x.shape[:2], -1)
        y = y.reshape(x.shape[0], -1, *x.shape[2:])
    else:
        y = mx.conv_general(
            mx.moveaxis(x, 1, -1),
            mx.moveaxis(weight, 1, -1),
            stride=steps,
            padding=([low for low, _ in pads], [high for _, high in pads]),
            kernel_dilation=spread,
            groups=int(groups),
        )
        y = mx.moveaxis(y, -1, 1)
    return y if bias is None else y + bias.reshape(-1, *[1] * dims)


def _pads(
    kind: str, sizes: Sequence[int], reach: Sequence[int], steps: Sequence[int], custom: list[int] | None
) -> list[tuple[int, int]]:
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        assert custom is not None
        return list(zip(custom[::2], custom[1::2], strict=True))
    total = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(sizes, reach, steps, strict=True)]
    pairs = [(t // 2, t - t // 2) for t in total]
    return pairs if kind == "same" else [(high, low) for low, high in pairs]


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Computes x W^T + b over the last axis, weight (out, in)."""
    y = x @ weight.T
    return y if bias is None else y + bias


def matmul(x: Array, y: Array, transpose_x: bool = False, transpose_y: bool = False) -> Array:
    """Computes a matrix product over the last two axes; the others broadcast."""
    return (x.swapaxes(-1, -2) if transpose_x else x) @ (y.swapaxes(-1, -2) if transpose_y else y)


def einsum(values: tuple[Array, ...], equation: str) -> Array:
    """Computes an Einstein sum of any equation; axes of size one are broadcast."""
    letters = [term.strip() for term in equation.split("->")[0].split(",")]
    size: dict[str, int] = {}
    for term, value in zip(letters, values, strict=True):
        for letter, n in zip(term, value.shape, strict=True):
            size[letter] = max(n, size.get(letter, 1))
    broad = [mx.broadcast_to(v, [size[i] for i in term]) for term, v in zip(letters, values, strict=True)]
    return mx.einsum(equation.replace(" ", ""), *broad)


def scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    """Computes softmax(q k^T / sqrt(dim) + mask) v over (*batch, tokens, dim); a boolean mask keeps true entries."""
    scale = query.shape[-1] ** -0.5
    mask = attn_mask
    if mask is not None and mask.dtype == mx.bool_:
        mask = mx.where(mask, 0.0, -math.inf)
    if mask is not None and math.prod(mask.shape[:-2]) > 1:
        return softmax(query @ key.swapaxes(-1, -2) * scale + mask) @ value
    batch = mx.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    q, k, v = (mx.broadcast_to(a, (*batch, *a.shape[-2:])).reshape(1, -1, *a.shape[-2:]) for a in (query, key, value))
    if mask is not None:
        mask = mx.broadcast_to(mask.reshape(mask.shape[-2:]), (q.shape[2], k.shape[2]))
    return cpu.attention(q, k, v, mask, scale).reshape(*batch, query.shape[-2], value.shape[-1])


def softmax(x: Array, axis: Array | int = -1) -> Array:
    """Divides exponentials by their sum along an axis; the result is NaN where the largest input is infinite."""
    powers = cpu.exp(x - x.max(axis=int(axis), keepdims=True))
    return powers / powers.sum(axis=int(axis), keepdims=True)


def layer_norm(
    x: Array,
    axes: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array | float = 1e-5,
) -> Array:
    """Normalises to mean 0 and variance 1 over any axes, then applies gamma and beta, which have those axes' shape."""
    over = [a % x.ndim for a in (range(x.ndim) if axes is None else ints(axes))]
    return _normalised(x, over, gamma, beta, [n if i in over else 1 for i, n in enumerate(x.shape)], epsilon)


def instance_norm(
    x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: Array | float = 1e-5
) -> Array:
    """Normalises (B, C, *spatial) to mean 0 and variance 1 over space, then applies gamma and beta per channel."""
    return _normalised(x, list(range(2, x.ndim)), gamma, beta, [-1] + [1] * (x.ndim - 2), epsilon)


def _normalised(
    x: Array, axes: list[int], gamma: Array | None, beta: Array | None, shape: list[int], epsilon: Array | float
) -> Array:
    y = x - x.mean(axis=axes, keepdims=True)
    y = y * mx.rsqrt((y * y).mean(axis=axes, keepdims=True) + epsilon)
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array | float = 1e-5,
) -> Array:
    """Computes (x - mean) / sqrt(variance + epsilon), then applies gamma and beta; all four have shape (C,)."""
    shape = [-1] + [1] * (x.ndim - 2)
    scale = mx.rsqrt(variance + epsilon) * (1 if gamma is None else gamma)
    y = (x - mean.reshape(shape)) * scale.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def l2_norm(x: Array, epsilon: Array | float = 1e-6) -> Array:
    """Divides x by the root of its sum of squares over the last three axes."""
    return x * mx.rsqrt((x * x).sum(axis=(-3, -2, -1), keepdims=True) + epsilon)


def gelu(x: Array, mode: str = "EXACT") -> Array:
    """Computes x Phi(x), or its approximation by tanh or by a sigmoid."""
    if mode == "EXACT":
        return cpu.gelu(x)
    if mode == "SIGMOID_APPROXIMATION":
        return cpu.quick_gelu(x)
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def upsample_nearest_neighbor(
    x: Array, scale_factor_height: Array | float = 1, scale_factor_width: Array | float = 1
) -> Array:
    """Repeats rows and columns: position i comes from floor(i in / out), with the factors recomputed from the sizes."""
    for axis, factor in ((-2, float(scale_factor_height)), (-1, float(scale_factor_width))):
        x = _nearest(x, axis, math.floor(x.shape[axis] * factor))
    return x


def resize_nearest_neighbor(x: Array, target_size_height: Array | int, target_size_width: Array | int) -> Array:
    """Resizes to a given size: position i comes from floor(i in / out)."""
    return _nearest(_nearest(x, -2, int(target_size_height)), -1, int(target_size_width))


def upsample_bilinear(
    x: Array,
    scale_factor_height: Array | float = 1,
    scale_factor_width: Array | float = 1,
    align_corners: Array | bool = True,
    half_pixel_centers: Array | bool | None = None,
) -> Array:
    """Interpolates between rows and between columns; the factors are recomputed from the sizes."""
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    mode = "ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        x = _linear(x, axis, _grid(mode, x.shape[axis], math.floor(x.shape[axis] * float(factor))))
    return x


def resize_bilinear(
    x: Array, target_size_height: Array | int = 1, target_size_width: Array | int = 1, sampling_mode: str = "DEFAULT"
) -> Array:
    """Interpolates between rows and between columns, to a given size."""
    for axis, size in ((-2, target_size_height), (-1, target_size_width)):
        x = _linear(x, axis, _grid(sampling_mode, x.shape[axis], int(size)))
    return x


def resize(
    x: Array,
    shape: Array,
    resized_dims: Array | int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Array:
    """Resizes the last `resized_dims` axes to the last sizes in `shape`; 0 keeps an axis."""
    nearest = interpolation_mode == "NEAREST_NEIGHBOR"
    if nearest and sampling_mode != "DEFAULT":
        raise ValueError(f"nearest neighbours of {sampling_mode} are not interpreted here")
    for axis, size in zip(range(-int(resized_dims), 0), ints(shape)[-int(resized_dims) :], strict=True):
        if size:
            x = _nearest(x, axis, size) if nearest else _linear(x, axis, _grid(sampling_mode, x.shape[axis], size))
    return x


def _grid(mode: str, n: int, out: int) -> list[float]:
    """Returns where each of `out` samples lies among n, before clamping (MIL's definition of resize_bilinear)."""
    if mode == "UNALIGN_CORNERS":
        return [(i + 0.5) * n / out - 0.5 for i in range(out)]
    if mode == "DEFAULT":
        return [i * n / out for i in range(out)]
    if mode == "OFFSET_CORNERS":
        return [(i + 0.5) * max(1, n - 1) / out for i in range(out)]
    if mode == "ALIGN_CORNERS" and out == 1:
        return [(n - 1) / 2]
    return [i * (n - 1) / max(1, out - 1) for i in range(out)]


def _nearest(x: Array, axis: int, size: int) -> Array:
    n = x.shape[axis]
    if size % n == 0:
        return mx.repeat(x, size // n, axis=axis)
    return mx.take(x, mx.array([i * n // size for i in range(size)]), axis=axis)


def _linear(x: Array, axis: int, grid: list[float]) -> Array:
    last = x.shape[axis] - 1
    at = [min(float(last), max(0.0, g)) for g in grid]
    low = [min(int(a), max(0, last - 1)) for a in at]
    shape = [-1] + [1] * (-axis - 1)
    share = mx.array([a - i for a, i in zip(at, low, strict=True)], mx.float32).reshape(shape)
    below, above = (mx.take(x, mx.array([min(last, i + k) for i in low]), axis=axis) for k in (0, 1))
    return below + (above - below) * share
