"""Convolutions, products, attention, normalisations and resizings, interpreted, compute what numpy and scipy do."""

import math

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
from hypothesis import given
from scipy import special
from scipy.signal import correlate

from coreml.interpret import layers
from coreml.mil.coremltools import mb
from tests.support.programs import IOS18, agree, normal, run


def _convolved(x, weight, bias, strides, pads, dilations, groups):
    """By scipy, one output channel at a time: kernels spread out, then every stride-th result."""
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    spread = np.zeros((*weight.shape[:2], *[(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]))
    spread[(..., *[slice(None, None, d) for d in dilations])] = weight
    ins, outs = weight.shape[1], weight.shape[0] // groups
    y = np.stack(
        [
            np.stack(
                [
                    sum(correlate(xb[(o // outs) * ins + i], spread[o, i], "valid") for i in range(ins)) + bias[o]
                    for o in range(len(weight))
                ]
            )
            for xb in x
        ]
    )
    return y[(..., *[slice(None, None, s) for s in strides])]


@st.composite
def _convolutions(draw):
    dims = draw(st.integers(1, 2))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    return {
        "groups": groups,
        "shape": (draw(st.integers(1, 2)), groups * draw(st.integers(1, 3)), *each(5, 9)),
        "kernel": each(1, 3),
        "outs": groups * draw(st.integers(1, 3)),
        "strides": each(1, 3),
        "dilations": each(1, 2),
        "pad_type": draw(st.sampled_from(["valid", "custom", "same", "same_lower"])),
        "pad": [draw(st.integers(0, 2)) for _ in range(2 * dims)],
        "bias": draw(st.booleans()),
    }


@given(c=_convolutions())
def test_convolutions(folder, c):
    x, weight = normal(*c["shape"]), normal(c["outs"], c["shape"][1] // c["groups"], *c["kernel"])
    bias = normal(c["outs"]) if c["bias"] else None
    if c["pad_type"] == "custom":
        pads = list(zip(c["pad"][::2], c["pad"][1::2], strict=True))
    else:  # "same": as many results as strides fit in; what is odd goes to the end, or with same_lower to the start
        reach = [(k - 1) * d + 1 for k, d in zip(c["kernel"], c["dilations"], strict=True)]
        sizes = zip(c["shape"][2:], reach, c["strides"], strict=True)
        total = [max(0, (math.ceil(n / s) - 1) * s + k - n) for n, k, s in sizes]
        lower = [t - t // 2 if c["pad_type"] == "same_lower" else t // 2 for t in total]
        pads = [(0, 0) if c["pad_type"] == "valid" else (a, t - a) for a, t in zip(lower, total, strict=True)]
    options = {k: c[k] for k in ("strides", "dilations", "groups", "pad_type")}
    options |= {"pad": c["pad"]} if c["pad_type"] == "custom" else {}
    options |= {"bias": bias} if c["bias"] else {}
    (result,) = run(folder, lambda a: mb.conv(x=a, weight=weight, **options), x)
    zero = np.zeros(c["outs"]) if bias is None else bias
    agree(result, _convolved(x, weight, zero, c["strides"], pads, c["dilations"], c["groups"]))


@given(
    batch=st.sampled_from([((), ()), ((3,), ()), ((2, 1), (3,)), ((1, 4), (2, 4))]),
    sizes=st.tuples(*[st.integers(1, 6)] * 3),
    flips=st.tuples(st.booleans(), st.booleans()),
)
def test_matrix_products_broadcast(folder, batch, sizes, flips):
    m, k, n = sizes
    x, y = normal(*batch[0], m, k), normal(*batch[1], k, n)
    stored = [np.ascontiguousarray(a.swapaxes(-1, -2)) if flip else a for a, flip in zip((x, y), flips, strict=True)]
    (result,) = run(folder, lambda a, b: mb.matmul(x=a, y=b, transpose_x=flips[0], transpose_y=flips[1]), *stored)
    agree(result, x @ y)


def test_linear_and_einsum(folder):
    x, weight, bias = normal(2, 5, 6), normal(4, 6), normal(4)
    agree(*run(folder, lambda a: mb.linear(x=a, weight=weight, bias=bias), x), x @ weight.T + bias)
    agree(*run(folder, lambda a: mb.linear(x=a, weight=weight), x), x @ weight.T)
    p, q = normal(2, 3, 4, 5), normal(2, 5, 1, 6)
    (result,) = run(folder, lambda a, b: mb.einsum(values=(a, b), equation="nchw,nwhu->nchu"), p, q)
    agree(result, np.einsum("nchw,nwu->nchu", p, q[:, :, 0]))
    p, q = normal(3, 4, 5), normal(5, 4, 6)
    agree(
        *run(folder, lambda a, b: mb.einsum(values=(a, b), equation="chw,whr->chr"), p, q),
        np.einsum("chw,whr->chr", p, q),
    )


@given(
    batch=st.sampled_from([(1,), (2,), (2, 3)]),
    tokens=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dims=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    mask=st.sampled_from(["none", "bool", "float", "broad", "per batch"]),
)
def test_attention(folder, batch, tokens, dims, mask):
    (length, keys), (dim, out) = tokens, dims
    q, k, v = normal(*batch, length, dim), normal(*batch, keys, dim), normal(*batch, keys, out)
    masks = {
        "none": None,
        "bool": np.tril(np.ones((length, keys), bool)),
        "float": normal(length, keys),
        "broad": normal(1, keys),
        "per batch": normal(*batch, length, keys),
    }
    m = masks[mask]
    options = {} if m is None else {"attn_mask": m}
    (result,) = run(
        folder,
        lambda a, b, c: mb.scaled_dot_product_attention(query=a, key=b, value=c, **options),
        q,
        k,
        v,
        opset=IOS18,
    )
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(dim)
    if m is not None:
        scores = np.where(m, scores, -np.inf) if m.dtype == bool else scores + m
    agree(result, special.softmax(scores.astype(np.float64), -1) @ v)


@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    axes=st.sets(st.integers(-4, 3), min_size=1),
    affine=st.booleans(),
)
def test_layer_norm_over_any_axes(folder, shape, axes, affine):
    over = sorted({a % len(shape) for a in axes})
    x, inner = normal(*shape) * 3 + 1, [shape[a] for a in over]
    gamma, beta = (normal(*inner), normal(*inner)) if affine else (np.ones(inner), np.zeros(inner))
    options = {"gamma": gamma, "beta": beta} if affine else {}
    (result,) = run(folder, lambda a: mb.layer_norm(x=a, axes=over, epsilon=1e-3, **options), x)
    exact, shape_of_means = x.astype(np.float64), [n if i in over else 1 for i, n in enumerate(shape)]
    mean, variance = (f(exact, axis=tuple(over), keepdims=True) for f in (np.mean, np.var))
    agree(
        result, (exact - mean) / np.sqrt(variance + 1e-3) * gamma.reshape(shape_of_means) + beta.reshape(shape_of_means)
    )


def test_the_other_normalisations_and_softmax(folder):
    x, gamma, beta, mean, variance = normal(2, 3, 4, 5), normal(3), normal(3), normal(3), np.abs(normal(3))
    of = lambda a: a.reshape(1, 3, 1, 1)  # noqa: E731
    result = run(
        folder,
        lambda a: [
            mb.batch_norm(x=a, mean=mean, variance=variance, gamma=gamma, beta=beta),
            mb.batch_norm(x=a, mean=mean, variance=variance, epsilon=0.1),
            mb.instance_norm(x=a, gamma=gamma, beta=beta),
            mb.l2_norm(x=a),
            mb.softmax(x=a, axis=1),
            mb.softmax(x=a),
        ],
        x,
    )
    centred = x - x.mean((2, 3), keepdims=True)
    expected = [
        (x - of(mean)) / np.sqrt(of(variance) + 1e-5) * of(gamma) + of(beta),
        (x - of(mean)) / np.sqrt(of(variance) + 0.1),
        centred / np.sqrt(x.var((2, 3), keepdims=True) + 1e-5) * of(gamma) + of(beta),
        x / np.sqrt(np.square(x).sum((1, 2, 3), keepdims=True) + 1e-6),
        special.softmax(x, 1),
        special.softmax(x, -1),
    ]
    for g, w in zip(result, expected, strict=True):
        agree(g, w)


def _sampled(x: np.ndarray, rows: list[float], columns: list[float]) -> np.ndarray:
    """Linear between the pixels of the last two axes, positions clamped."""
    y = np.apply_along_axis(lambda c: np.interp(rows, np.arange(len(c)), c), -2, x)
    return np.apply_along_axis(lambda r: np.interp(columns, np.arange(len(r)), r), -1, y)


def test_resizing(folder):
    x = normal(2, 3, 4, 5)
    nearest = lambda h, w: x[:, :, [i * 4 // h for i in range(h)]][..., [i * 5 // w for i in range(w)]]  # noqa: E731
    half = lambda n, out: [(i + 0.5) * n / out - 0.5 for i in range(out)]  # noqa: E731
    ends = lambda n, out: [i * (n - 1) / (out - 1) for i in range(out)]  # noqa: E731
    result = run(
        folder,
        lambda a: [
            mb.upsample_nearest_neighbor(x=a, scale_factor_height=2, scale_factor_width=3),
            mb.upsample_nearest_neighbor(x=a, scale_factor_height=1.5, scale_factor_width=2.0),
            mb.resize_nearest_neighbor(x=a, target_size_height=7, target_size_width=3),
            mb.upsample_bilinear(x=a, scale_factor_height=2, scale_factor_width=2, align_corners=True),
            mb.upsample_bilinear(x=a, scale_factor_height=2, scale_factor_width=3, align_corners=False),
            mb.resize_bilinear(x=a, target_size_height=6, target_size_width=3, sampling_mode="UNALIGN_CORNERS"),
            mb.resize_bilinear(x=a, target_size_height=6, target_size_width=9, sampling_mode="STRICT_ALIGN_CORNERS"),
            mb.resize_bilinear(x=a, target_size_height=6, target_size_width=7, sampling_mode="DEFAULT"),
        ],
        x,
    )
    expected = [
        nearest(8, 15),
        nearest(6, 10),
        nearest(7, 3),
        _sampled(x, ends(4, 8), ends(5, 10)),
        _sampled(x, half(4, 8), half(5, 15)),
        _sampled(x, half(4, 6), half(5, 3)),
        _sampled(x, ends(4, 6), ends(5, 9)),
        _sampled(x, [i * 4 / 6 for i in range(6)], [i * 5 / 7 for i in range(7)]),
    ]
    for g, w in zip(result, expected, strict=True):
        agree(g, w)


def test_any_einstein_sum():
    p, q = normal(2, 5, 1, 7), normal(2, 6, 4, 5)
    result = layers.einsum((mx.array(p), mx.array(q)), "bchq,bkhc->bkhq")
    agree(np.array(result), np.einsum("bcq,bkhc->bkhq", p[:, :, 0], q))
