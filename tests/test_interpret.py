"""Interpreting a saved package computes what MIL's definitions say, in float32 or rounded, or says what is wrong."""

import gc
import math
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.optimize._utils import lut_to_dense, pack_elements_into_bits
from hypothesis import HealthCheck, given, settings
from scipy import special
from scipy.signal import correlate

from coreml import compressed, layers, tools
from coreml.interpret import Package
from coreml.program import unpack
from coreml.tools import compress, ct, mb, types
from mlx_sd.errors import Failure, InputError

IOS16, IOS17, IOS18 = ct.target.iOS16, ct.target.iOS17, ct.target.iOS18
RANDOM = np.random.RandomState(0)
MIL = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32, "bool": types.bool}


def _convert(build: Callable, *feeds: np.ndarray, opset=IOS17, precision=None, passes=None):
    """A model whose inputs x0, x1, ... are like `feeds` and whose outputs are what `build` makes of them."""
    names = ", ".join(f"x{i}" for i in range(len(feeds)))
    specs = [mb.TensorSpec(shape=f.shape, dtype=MIL[f.dtype.name]) for f in feeds]
    program = mb.program(input_specs=specs, opset_version=opset)(
        eval(f"lambda {names}: build({names})", {"build": build})
    )
    return ct.convert(
        program,
        minimum_deployment_target=opset,
        compute_precision=precision or ct.precision.FLOAT32,
        pass_pipeline=passes or ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )


def _save(folder: Path, build: Callable, *feeds: np.ndarray, **options) -> Path:
    path = folder / "model.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    _convert(build, *feeds, **options).save(str(path))
    return path


def _run(folder: Path, build: Callable, *feeds: np.ndarray, rounding: bool = False, **options) -> list[np.ndarray]:
    package = Package.load(_save(folder, build, *feeds, **options))
    return list(package.run({f"x{i}": f for i, f in enumerate(feeds)}, rounding=rounding).values())


def _agree(got: np.ndarray, want: np.ndarray, limit: float = 1e-5) -> None:
    assert got.shape == np.shape(want)
    if got.dtype.kind == "f":
        assert np.abs(got - want).max(initial=0) <= limit * max(1.0, np.abs(want).max(initial=0))
    else:
        np.testing.assert_array_equal(got, want)


def _normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def _numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    gc.freeze()  # coremltools collects garbage at each conversion: not among all that is loaded already
    yield tmp_path_factory.mktemp("packages")
    gc.unfreeze()


# Elementwise: MIL's name -> numpy's.
UNARY = {
    "abs": np.abs,
    "ceil": np.ceil,
    "cos": np.cos,
    "erf": special.erf,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "identity": lambda x: x,
    "inverse": lambda x: 1 / (x + 1e-4),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "round": np.round,
    "sigmoid": special.expit,
    "sign": np.sign,
    "silu": lambda x: x * special.expit(x),
    "sin": np.sin,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}
POSITIVE = {"log": np.log, "rsqrt": lambda x: x**-0.5, "sqrt": np.sqrt}
BINARY = {
    "add": np.add,
    "equal": np.equal,
    "floor_div": np.floor_divide,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "mul": np.multiply,
    "not_equal": np.not_equal,
    "real_div": np.true_divide,
    "sub": np.subtract,
}
LOGICAL = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}
REDUCTIONS = {
    "reduce_l1_norm": lambda x, **o: np.abs(x).sum(**o),
    "reduce_l2_norm": lambda x, **o: np.sqrt(np.square(x).sum(**o)),
    "reduce_log_sum_exp": special.logsumexp,
    "reduce_max": np.max,
    "reduce_mean": np.mean,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
    "reduce_sum_square": lambda x, **o: np.square(x).sum(**o),
}


def test_elementwise_operations_of_one_argument(folder):
    """All in one program, its outputs in their order."""
    x, positive = _normal(3, 5) * 3, np.abs(_normal(3, 5)) + 0.1
    ops = [(getattr(mb, name), f, x) for name, f in UNARY.items()]
    ops += [(getattr(mb, name), f, positive) for name, f in POSITIVE.items()]
    got = _run(folder, lambda a, b: [op(x=a if v is x else b) for op, _, v in ops], x, positive)
    for out, (op, f, v) in zip(got, ops, strict=True):
        _agree(out, f(v.astype(np.float64))), op


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_elementwise_operations_of_two_arguments_broadcast(folder, dtype):
    x, y = (_normal(2, 1, 5) * 9).astype(dtype), (_normal(3, 1) * 9).astype(dtype)
    y = np.where(y == 0, 2, y).astype(dtype)
    names = [n for n in BINARY if dtype == np.float32 or n != "real_div"]
    got = _run(folder, lambda a, b: [getattr(mb, n)(x=a, y=b) for n in names], x, y)
    for name, out in zip(names, got, strict=True):
        _agree(out, BINARY[name](x, y))


def test_the_other_elementwise_operations(folder):
    x, y = _normal(4, 3), _normal(4, 3)
    p, q = x > 0, y > 0

    def build(a, b, c, d):
        return [getattr(mb, n)(x=c, y=d) for n in LOGICAL] + [
            mb.logical_not(x=c),
            mb.select(cond=c, a=a, b=b),
            mb.clip(x=a, alpha=-0.5, beta=0.25),
            mb.pow(x=mb.abs(x=a), y=b),
            mb.threshold(x=a, alpha=0.1),
            mb.leaky_relu(x=a, alpha=0.2),
            mb.elu(x=a, alpha=0.3),
            mb.linear_activation(x=a, alpha=2.0, beta=0.5),
            mb.sigmoid_hard(x=a, alpha=0.4, beta=0.5),
        ]

    want = [f(p, q) for f in LOGICAL.values()] + [
        ~p,
        np.where(p, x, y),
        np.clip(x, -0.5, 0.25),
        np.abs(x) ** y,
        np.maximum(x, 0.1),
        np.where(x > 0, x, 0.2 * x),
        np.where(x > 0, x, 0.3 * np.expm1(x)),
        2 * x + 0.5,
        np.clip(0.4 * x + 0.5, 0, 1),
    ]
    # Inputs of a package are numbers; booleans are made of them inside.
    got = _run(folder, lambda a, b: build(a, b, mb.greater(x=a, y=0.0), mb.greater(x=b, y=0.0)), x, y)
    for g, w in zip(got, want, strict=True):
        _agree(g, w)


@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
def test_gelu(folder, mode):
    x = _normal(100) * 4
    want = {
        "EXACT": x * special.ndtr(x.astype(np.float64)),
        "TANH_APPROXIMATION": 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "SIGMOID_APPROXIMATION": x * special.expit(1.702 * x),
    }
    _agree(*_run(folder, lambda a: mb.gelu(x=a, mode=mode), x), want[mode])


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axes, keep", [(None, False), ([1], True), ([-1, 0], False)])
def test_reductions(folder, name, axes, keep):
    x = _normal(3, 4, 5)
    given_axes = {} if axes is None else {"axes": axes}
    (got,) = _run(folder, lambda a: getattr(mb, name)(x=a, keep_dims=keep, **given_axes), x)
    _agree(got, REDUCTIONS[name](x.astype(np.float64), axis=None if axes is None else tuple(axes), keepdims=keep))


def test_where_the_extremes_are_and_running_sums(folder):
    x = _normal(3, 4, 5)
    got = _run(
        folder,
        lambda a: [
            mb.reduce_argmax(x=a, axis=1, keep_dims=True),
            mb.reduce_argmin(x=a),
            mb.cumsum(x=a, axis=1),
            mb.cumsum(x=a, axis=-1, exclusive=True, reverse=True),
        ],
        x,
    )
    ends = np.flip(np.cumsum(np.flip(x, -1), -1), -1)
    want = [x.argmax(1, keepdims=True), x.argmin(-1), x.cumsum(1), ends - x]
    for g, w in zip(got, want, strict=True):
        _agree(g, w)


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


@settings(deadline=None, max_examples=40)
@given(c=_convolutions())
def test_convolutions(folder, c):
    x, weight = _normal(*c["shape"]), _normal(c["outs"], c["shape"][1] // c["groups"], *c["kernel"])
    bias = _normal(c["outs"]) if c["bias"] else None
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
    (got,) = _run(folder, lambda a: mb.conv(x=a, weight=weight, **options), x)
    zero = np.zeros(c["outs"]) if bias is None else bias
    _agree(got, _convolved(x, weight, zero, c["strides"], pads, c["dilations"], c["groups"]))


@settings(deadline=None, max_examples=20)
@given(
    batch=st.sampled_from([((), ()), ((3,), ()), ((2, 1), (3,)), ((1, 4), (2, 4))]),
    sizes=st.tuples(*[st.integers(1, 6)] * 3),
    flips=st.tuples(st.booleans(), st.booleans()),
)
def test_matrix_products_broadcast(folder, batch, sizes, flips):
    m, k, n = sizes
    x, y = _normal(*batch[0], m, k), _normal(*batch[1], k, n)
    stored = [np.ascontiguousarray(a.swapaxes(-1, -2)) if flip else a for a, flip in zip((x, y), flips, strict=True)]
    (got,) = _run(folder, lambda a, b: mb.matmul(x=a, y=b, transpose_x=flips[0], transpose_y=flips[1]), *stored)
    _agree(got, x @ y)


def test_linear_and_einsum(folder):
    x, weight, bias = _normal(2, 5, 6), _normal(4, 6), _normal(4)
    _agree(*_run(folder, lambda a: mb.linear(x=a, weight=weight, bias=bias), x), x @ weight.T + bias)
    _agree(*_run(folder, lambda a: mb.linear(x=a, weight=weight), x), x @ weight.T)
    p, q = _normal(2, 3, 4, 5), _normal(2, 5, 1, 6)
    (got,) = _run(folder, lambda a, b: mb.einsum(values=(a, b), equation="nchw,nwhu->nchu"), p, q)
    _agree(got, np.einsum("nchw,nwu->nchu", p, q[:, :, 0]))
    p, q = _normal(3, 4, 5), _normal(5, 4, 6)
    _agree(
        *_run(folder, lambda a, b: mb.einsum(values=(a, b), equation="chw,whr->chr"), p, q),
        np.einsum("chw,whr->chr", p, q),
    )


@settings(deadline=None, max_examples=20)
@given(
    batch=st.sampled_from([(1,), (2,), (2, 3)]),
    tokens=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dims=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    mask=st.sampled_from(["none", "bool", "float", "broad", "per batch"]),
)
def test_attention(folder, batch, tokens, dims, mask):
    (length, keys), (dim, out) = tokens, dims
    q, k, v = _normal(*batch, length, dim), _normal(*batch, keys, dim), _normal(*batch, keys, out)
    masks = {
        "none": None,
        "bool": np.tril(np.ones((length, keys), bool)),
        "float": _normal(length, keys),
        "broad": _normal(1, keys),
        "per batch": _normal(*batch, length, keys),
    }
    m = masks[mask]
    options = {} if m is None else {"attn_mask": m}
    (got,) = _run(
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
    _agree(got, special.softmax(scores.astype(np.float64), -1) @ v)


@settings(deadline=None, max_examples=20)
@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    axes=st.sets(st.integers(-4, 3), min_size=1),
    affine=st.booleans(),
)
def test_layer_norm_over_any_axes(folder, shape, axes, affine):
    over = sorted({a % len(shape) for a in axes})
    x, inner = _normal(*shape) * 3 + 1, [shape[a] for a in over]
    gamma, beta = (_normal(*inner), _normal(*inner)) if affine else (np.ones(inner), np.zeros(inner))
    options = {"gamma": gamma, "beta": beta} if affine else {}
    (got,) = _run(folder, lambda a: mb.layer_norm(x=a, axes=over, epsilon=1e-3, **options), x)
    exact, kept = x.astype(np.float64), [n if i in over else 1 for i, n in enumerate(shape)]
    mean, variance = (f(exact, axis=tuple(over), keepdims=True) for f in (np.mean, np.var))
    _agree(got, (exact - mean) / np.sqrt(variance + 1e-3) * gamma.reshape(kept) + beta.reshape(kept))


def test_the_other_normalisations_and_softmax(folder):
    x, gamma, beta, mean, variance = _normal(2, 3, 4, 5), _normal(3), _normal(3), _normal(3), np.abs(_normal(3))
    of = lambda a: a.reshape(1, 3, 1, 1)  # noqa: E731
    got = _run(
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
    want = [
        (x - of(mean)) / np.sqrt(of(variance) + 1e-5) * of(gamma) + of(beta),
        (x - of(mean)) / np.sqrt(of(variance) + 0.1),
        centred / np.sqrt(x.var((2, 3), keepdims=True) + 1e-5) * of(gamma) + of(beta),
        x / np.sqrt(np.square(x).sum((1, 2, 3), keepdims=True) + 1e-6),
        special.softmax(x, 1),
        special.softmax(x, -1),
    ]
    for g, w in zip(got, want, strict=True):
        _agree(g, w)


def _sampled(x: np.ndarray, rows: list[float], columns: list[float]) -> np.ndarray:
    """Linear between the pixels of the last two axes, positions clamped."""
    y = np.apply_along_axis(lambda c: np.interp(rows, np.arange(len(c)), c), -2, x)
    return np.apply_along_axis(lambda r: np.interp(columns, np.arange(len(r)), r), -1, y)


def test_resizing(folder):
    x = _normal(2, 3, 4, 5)
    nearest = lambda h, w: x[:, :, [i * 4 // h for i in range(h)]][..., [i * 5 // w for i in range(w)]]  # noqa: E731
    half = lambda n, out: [(i + 0.5) * n / out - 0.5 for i in range(out)]  # noqa: E731
    ends = lambda n, out: [i * (n - 1) / (out - 1) for i in range(out)]  # noqa: E731
    got = _run(
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
    want = [
        nearest(8, 15),
        nearest(6, 10),
        nearest(7, 3),
        _sampled(x, ends(4, 8), ends(5, 10)),
        _sampled(x, half(4, 8), half(5, 15)),
        _sampled(x, half(4, 6), half(5, 3)),
        _sampled(x, ends(4, 6), ends(5, 9)),
        _sampled(x, [i * 4 / 6 for i in range(6)], [i * 5 / 7 for i in range(7)]),
    ]
    for g, w in zip(got, want, strict=True):
        _agree(g, w)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), shape=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_slices(folder, data, shape):
    """Any that numpy takes, negative and masked, on every axis; and the same slice replaced."""
    x = _normal(*shape)
    flags = st.lists(st.booleans(), min_size=len(shape), max_size=len(shape))
    begin = [data.draw(st.integers(-n, n - 1)) for n in shape]
    stride = [data.draw(st.integers(1, 3)) for _ in shape]
    length = [data.draw(st.integers(1, n - b % n)) for n, b in zip(shape, begin, strict=True)]
    end = [b % n + k for n, b, k in zip(shape, begin, length, strict=True)]
    masks = {name: data.draw(flags) for name in ("begin_mask", "end_mask", "squeeze_mask")}
    if all(masks["squeeze_mask"]):
        masks["squeeze_mask"][0] = False
    index = tuple(
        (0 if m else b) if q else slice(None if m else b, None if e_masked else e, s)
        for b, e, s, m, e_masked, q in zip(begin, end, stride, *masks.values(), strict=True)
    )
    (got,) = _run(folder, lambda a: mb.slice_by_index(x=a, begin=begin, end=end, stride=stride, **masks), x)
    _agree(got, x[index])
    (got,) = _run(folder, lambda a: mb.slice_by_size(x=a, begin=begin, size=length), x)
    _agree(got, x[tuple(slice(b % n, b % n + k) for n, b, k in zip(shape, begin, length, strict=True))])
    if not any(masks["squeeze_mask"]):
        update, want = _normal(*x[index].shape), x.copy()
        want[index] = update
        (got,) = _run(
            folder,
            lambda a, u: mb.slice_update(x=a, update=u, begin=begin, end=end, stride=stride, **masks),
            x,
            update,
            opset=IOS18,
        )
        _agree(got, want)


def test_backward_slices_and_reversal(folder):
    x = _normal(5, 4)
    build = lambda a: [  # noqa: E731
        mb.slice_by_index(x=a, begin=[4, 3], end=[0, 0], stride=[-2, -1], end_mask=[True, False]),
        mb.reverse(x=a, axes=[1]),
        mb.reverse(x=a),
    ]
    for g, w in zip(_run(folder, build, x), [x[::-2, 3:0:-1], x[:, ::-1], x[::-1, ::-1]], strict=True):
        _agree(g, w)


def test_shapes(folder):
    x = _normal(2, 1, 6, 4)
    build = lambda a: [  # noqa: E731
        mb.reshape(x=a, shape=[4, -1]),
        mb.reshape(x=a, shape=[0, 3, 2, 0]),
        mb.transpose(x=a, perm=[2, 0, -1, 1]),
        mb.expand_dims(x=a, axes=[-1]),
        mb.squeeze(x=a, axes=[1]),
        mb.squeeze(x=a),
        mb.flatten2d(x=a, axis=2),
        *mb.split(x=a, num_splits=3, axis=2),
        *mb.split(x=a, split_sizes=[1, 3], axis=-1),
        mb.concat(values=[a, a, mb.square(x=a)], axis=-1),
        mb.concat(values=[a, mb.square(x=a)], axis=2, interleave=True),
        mb.stack(values=[a, mb.square(x=a)], axis=1),
        mb.tile(x=a, reps=[1, 3, 2, 1]),
        mb.shape(x=a),
        mb.pixel_shuffle(x=mb.reshape(x=a, shape=[1, 8, 2, 3]), upscale_factor=2),
        mb.band_part(x=a, lower=1, upper=0),
        mb.band_part(x=a, lower=-1, upper=2),
        mb.fill_like(ref_tensor=a, value=2.5),
    ]
    shuffled = x.reshape(1, 2, 2, 2, 2, 3).transpose(0, 1, 4, 2, 5, 3).reshape(1, 2, 4, 6)
    want = [
        x.reshape(4, -1),
        x.reshape(2, 3, 2, 4),
        x.transpose(2, 0, 3, 1),
        x[..., None],
        x[:, 0],
        x[:, 0],
        x.reshape(2, 24),
        *np.split(x, 3, 2),
        x[..., :1],
        x[..., 1:],
        np.concatenate([x, x, x * x], -1),
        np.stack([x, x * x], 3).reshape(2, 1, 12, 4),
        np.stack([x, x * x], 1),
        np.tile(x, (1, 3, 2, 1)),
        _numbers(2, 1, 6, 4),
        shuffled,
        np.tril(np.triu(x, -1)),
        np.tril(x, 2),
        np.full(x.shape, 2.5),
    ]
    for g, w in zip(_run(folder, build, x), want, strict=True):
        _agree(g, w)


def test_shapes_known_only_at_run_time(folder):
    """fill, reshape, range_1d and tile with what other operations computed."""
    x, n = _normal(2, 6), _numbers(3, 4)
    build = lambda a, b: [  # noqa: E731
        mb.fill(shape=b, value=1.5),
        mb.reshape(x=a, shape=b),
        mb.range_1d(start=0, end=mb.reduce_sum(x=b, axes=[0], keep_dims=False), step=2),
    ]
    for g, w in zip(
        _run(folder, build, x, n), [np.full((3, 4), 1.5), x.reshape(3, 4), _numbers(0, 2, 4, 6)], strict=True
    ):
        _agree(g, w)


@settings(deadline=None, max_examples=25)
@given(
    x=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    inner=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    data=st.data(),
)
def test_gathers(folder, x, inner, data):
    batch = data.draw(st.integers(0, len(x) - 1))
    axis = data.draw(st.integers(batch, len(x) - 1))
    values = _normal(*x)
    indices = RANDOM.randint(0, x[axis], (*x[:batch], *inner)).astype(np.int32)
    (got,) = _run(folder, lambda a, i: mb.gather(x=a, indices=i, axis=axis, batch_dims=batch), values, indices)
    want = np.empty((*x[:batch], *x[batch:axis], *inner, *x[axis + 1 :]), np.float32)
    for at in np.ndindex(*x[:batch]):
        want[at] = np.take(values[at], indices[at], axis - batch)
    _agree(got, want)

    along = RANDOM.randint(0, x[axis], [3 if i == axis else n for i, n in enumerate(x)]).astype(np.int32)
    (got,) = _run(folder, lambda a, i: mb.gather_along_axis(x=a, indices=i, axis=axis), values, along)
    _agree(got, np.take_along_axis(values, along, axis))

    depth = data.draw(st.integers(1, len(x) - batch))
    points = np.stack([RANDOM.randint(0, n, (*x[:batch], *inner)) for n in x[batch : batch + depth]], -1)
    (got,) = _run(folder, lambda a, i: mb.gather_nd(x=a, indices=i, batch_dims=batch), values, points.astype(np.int32))
    want = np.empty((*x[:batch], *inner, *x[batch + depth :]), np.float32)
    for at in np.ndindex(*x[:batch]):
        want[at] = values[at][tuple(np.moveaxis(points[at], -1, 0))]
    _agree(got, want)


def test_one_hot_and_padding(folder):
    x, i = _normal(2, 3, 4), _numbers(2, 0, 1)
    build = lambda a, b: [  # noqa: E731
        mb.one_hot(indices=b, one_hot_vector_size=4),
        mb.one_hot(indices=b, one_hot_vector_size=4, axis=0, on_value=2.0, off_value=-1.0),
        mb.pad(x=a, pad=[1, 2], mode="constant", constant_val=3.0),
        mb.pad(x=a, pad=[0, 0, 2, 1, 1, 3], mode="reflect"),
        mb.pad(x=a, pad=[2, 1, 1, 3], mode="replicate"),
    ]
    hot = np.eye(4)[i]
    want = [
        hot.astype(np.int32),
        (3 * hot - 1).T.astype(np.float32),
        np.pad(x, [(0, 0), (0, 0), (1, 2)], constant_values=3),
        np.pad(x, [(0, 0), (2, 1), (1, 3)], "reflect"),
        np.pad(x, [(0, 0), (2, 1), (1, 3)], "edge"),
    ]
    for g, w in zip(_run(folder, build, x, i), want, strict=True):
        _agree(g, w)


def test_casts_truncate_and_keep_their_type(folder):
    x = np.array([-2.7, -0.5, 0.0, 0.5, 2.5, 7.9], np.float32)
    for name, want in {
        "int32": x.astype(np.int32),
        "int8": x.astype(np.int8),
        "int16": x.astype(np.int16),
        "bool": x != 0,
        "fp32": x,
    }.items():
        package = Package.load(_save(folder, lambda a, n=name: mb.cast(x=mb.cast(x=a, dtype=n), dtype="fp32"), x))
        (got,) = package.run({"x0": x}).values()
        _agree(got, want.astype(np.float32))


def test_rounding_rounds_every_half_precision_value(folder):
    """1 + 2^-11 is 1 in fp16, and 65504 + 32 is infinite; float32 knows better in both."""
    x = np.array([1.0, 65504.0], np.float32)
    step = np.array([2**-11, 32.0], np.float16)

    def build(a):
        b = mb.cast(x=a, dtype="fp16")
        return mb.cast(x=mb.sub(x=mb.add(x=b, y=step), y=np.array([1.0, 65504.0], np.float16)), dtype="fp32")

    path = _save(folder, build, x)
    (exact,), (rounded,) = (Package.load(path).run({"x0": x}, rounding=r).values() for r in (False, True))
    np.testing.assert_array_equal(exact, [2**-11, 32.0])
    np.testing.assert_array_equal(rounded, [0.0, np.inf])


def test_rounding_is_numpys(folder):
    """A chain in fp16 equals the same chain in numpy, rounded after each operation, bit for bit."""
    x, y = _normal(50), _normal(50)

    def build(a, b):
        a, b = mb.cast(x=a, dtype="fp16"), mb.cast(x=b, dtype="fp16")
        return mb.sub(x=mb.mul(x=mb.add(x=a, y=b), y=b), y=a)

    (got,) = _run(folder, build, x, y, rounding=True)
    a, b = x.astype(np.float16), y.astype(np.float16)
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, (a + b) * b - a)


def test_infinities_are_not_hidden(folder):
    """What overflows before a softmax or an attention is NaN after it, as on a device, not a plausible number."""
    x = np.array([[[1.0, 300.0]]], np.float32)

    def build(a):
        b = mb.cast(x=a, dtype="fp16")
        big = mb.mul(x=b, y=b)
        return mb.softmax(x=big), mb.scaled_dot_product_attention(query=big, key=b, value=b)

    for got in _run(folder, build, x, rounding=True, opset=IOS18):
        assert np.isnan(got).all()


def _palettes(bits: int, opset) -> ct.models.MLModel:
    weight, x = _normal(16, 8, 3, 3), _normal(1, 8, 5, 5)
    model = _convert(
        lambda a: mb.conv(x=a, weight=weight, pad_type="same"), x, opset=opset, passes=ct.PassPipeline.DEFAULT
    )
    config = compress.OpPalettizerConfig(mode="uniform", nbits=bits, weight_threshold=0)
    return compress.palettize_weights(model, compress.OptimizationConfig(global_config=config))


def _quantized(opset, **options) -> ct.models.MLModel:
    weight, x = _normal(16, 8, 3, 3), _normal(1, 8, 5, 5)
    model = _convert(
        lambda a: mb.conv(x=a, weight=weight, pad_type="same"), x, opset=opset, passes=ct.PassPipeline.DEFAULT
    )
    config = compress.OpLinearQuantizerConfig(weight_threshold=0, **options)
    return compress.linear_quantize_weights(model, compress.OptimizationConfig(global_config=config))


COMPRESSED = {
    **{
        f"{bits} bits, {o.name}": (lambda b=bits, o=o: _palettes(b, o)) for bits in (2, 4, 6, 8) for o in (IOS16, IOS18)
    },
    "3 bits, iOS18": lambda: _palettes(3, IOS18),
    "int8, iOS16": lambda: _quantized(IOS16, mode="linear_symmetric", dtype="int8"),
    "uint8, iOS16": lambda: _quantized(IOS16, mode="linear", dtype="uint8"),
    "int8, iOS18": lambda: _quantized(IOS18, mode="linear_symmetric", dtype="int8"),
    "int4 in blocks, iOS18": lambda: _quantized(
        IOS18, mode="linear", dtype="int4", granularity="per_block", block_size=4
    ),
}


@pytest.mark.parametrize("form", COMPRESSED)
def test_compressed_weights_equal_the_decompressed_ones(folder, form):
    model, feeds = COMPRESSED[form](), {"x0": _normal(1, 8, 5, 5)}
    outputs = []
    for name, m in (("small", model), ("large", compress.decompress_weights(model))):
        path = folder / f"{name}.mlpackage"
        shutil.rmtree(path, ignore_errors=True)
        m.save(str(path))
        package = Package.load(path)
        assert any(kind.startswith("constexpr") for kind in package.kinds()) == (name == "small")
        outputs.append(package.run(feeds)["conv_0"])
    _agree(*outputs, limit=1e-6)
    assert np.abs(outputs[0]).max() > 1


# What can be wrong with a package: file, what is done to its bytes, and what the one line says.
DAMAGE = {
    "no manifest": ("Manifest.json", None, "Manifest.json is missing"),
    "half a manifest": ("Manifest.json", lambda b: b[: len(b) // 2], "is not JSON"),
    "a manifest without a model": ("Manifest.json", lambda b: b"{}", "names no model"),
    "a manifest that leads out": (
        "Manifest.json",
        lambda b: b.replace(b"com.apple.CoreML/model.mlmodel", b"../../model.mlmodel"),
        "not in the package",
    ),
    "no model": ("model.mlmodel", None, "model.mlmodel is missing"),
    "half a model": ("model.mlmodel", lambda b: b[: len(b) // 2], "damaged or incomplete"),
    "an empty model": ("model.mlmodel", lambda b: b"", "not an ML program"),
    "no weights": ("weight.bin", None, "weight.bin is missing"),
    "empty weights": ("weight.bin", lambda b: b"", "incomplete"),
    "a header's worth of weights": ("weight.bin", lambda b: b[:64], "incomplete"),
    "weights cut in a blob": ("weight.bin", lambda b: b[:200], "incomplete"),
    "weights cut near the end": ("weight.bin", lambda b: b[:-40], "incomplete"),
    "another version": ("weight.bin", lambda b: b[:4] + b"\x07" + b[5:], "version"),
    "another magic": ("weight.bin", lambda b: b[:64] + b"\x00" + b[65:], "damaged"),
    "another type": ("weight.bin", lambda b: b[:68] + b"\x01" + b[69:], "damaged"),
    "another size": ("weight.bin", lambda b: b[:72] + b"\x01" + b[73:], "damaged"),
}


def _weighty(folder: Path) -> tuple[Path, np.ndarray]:
    x = _normal(2, 5, 6)
    return _save(folder, lambda a: mb.linear(x=a, weight=_normal(40, 6), bias=_normal(40)), x), x


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_package_is_refused_when_loaded(tmp_path, what):
    name, change, says = DAMAGE[what]
    path, _ = _weighty(tmp_path)
    Package.load(path)
    (file,) = path.rglob(name)
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match=says) as error:
        Package.load(path)
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_weights_cut_anywhere_are_refused(tmp_path, share):
    whole = tmp_path / "whole"
    if not whole.exists():
        whole.mkdir()
        _weighty(whole)
    path = tmp_path / "cut.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole / "model.mlpackage", path)
    (file,) = path.rglob("weight.bin")
    data = file.read_bytes()
    end = max(s + n for s, n in _blobs(data))
    file.write_bytes(data[: int(end * share)])
    with pytest.raises(InputError, match="incomplete|missing"):
        Package.load(path)


def _blobs(data: bytes) -> list[tuple[int, int]]:
    """Where each blob of a weight file starts and how long it is."""
    found, at = [], data.find(b"\xef\xbe\xad\xde")
    while at >= 0:
        size, start = (int.from_bytes(data[at + k : at + k + 8], "little") for k in (8, 16))
        found.append((start, size))
        at = data.find(b"\xef\xbe\xad\xde", start + size)
    return found


def test_what_is_not_an_ml_program_is_refused(tmp_path):
    missing, file, compiled, other = (tmp_path / n for n in ("no.mlpackage", "a.mlmodel", "b.mlmodelc", "c"))
    file.write_bytes(b"model")
    compiled.mkdir()
    other.mkdir()
    for path, says in ((missing, "not exist"), (file, "is a file"), (compiled, "compiled"), (other, "Manifest.json")):
        with pytest.raises(InputError, match=says):
            Package.load(path)
    path, _ = _weighty(tmp_path)
    (spec,) = path.rglob("model.mlmodel")
    network = tools.model.Model()
    network.neuralNetwork.layers.add().name = "one"
    spec.write_bytes(network.SerializeToString())
    with pytest.raises(InputError, match="neuralNetwork"):
        Package.load(path)


def test_inputs_that_do_not_fit_are_named(tmp_path):
    path, x = _weighty(tmp_path)
    package = Package.load(path)
    assert package.inputs() == {"x0": ((2, 5, 6), np.dtype(np.float32))}
    assert package.outputs() == {"linear_0": ((2, 5, 40), np.dtype(np.float32))}
    for feeds, says in [
        ({}, "missing x0"),
        ({"x0": x, "y": x}, "unexpected y"),
        ({"x0": x[:1]}, r"x0 has shape \(1, 5, 6\); it takes \(2, 5, 6\)"),
        ({"x0": x.astype(complex)}, "x0 is complex128"),
    ]:
        with pytest.raises(InputError, match=says):
            package.run(feeds)
    with pytest.raises(InputError, match="no function other; there is main"):
        package.run({"x0": x}, function="other")


def test_an_operation_that_is_not_there_is_named_before_anything_runs(tmp_path):
    x = _normal(3, 4)
    path = _save(tmp_path, lambda a: mb.topk(x=a, k=2, axis=1, name="best"), x)
    package = Package.load(path)
    assert package.kinds() == Counter(topk=1)
    with pytest.raises(Failure, match=r"function main: topk \(best\) is not an operation"):
        package.run({"x0": x})


def test_what_runs_wrong_is_named(tmp_path):
    x = _numbers(9)
    path = _save(tmp_path, lambda i: mb.gather(x=_normal(5, 2), indices=i, axis=0, name="look_up"), x)
    with pytest.raises(Failure, match=r"gather \(look_up\): indices from 9 to 9 into 5 entries"):
        Package.load(path).run({"x0": x})


def test_states_are_read_and_updated(tmp_path):
    """A counter: what is written in one run is read in the next, and zeros before the first."""

    @mb.program(
        input_specs=[mb.TensorSpec((3,), types.fp32), mb.StateTensorSpec((3,), types.fp16)], opset_version=IOS18
    )
    def program(x, total):
        new = mb.add(x=mb.read_state(input=total), y=mb.cast(x=x, dtype="fp16"))
        return mb.cast(x=mb.coreml_update_state(state=total, value=new), dtype="fp32")

    model = ct.convert(program, minimum_deployment_target=IOS18, skip_model_load=True)
    path = tmp_path / "model.mlpackage"
    model.save(str(path))
    package, state = Package.load(path), {}
    assert package.states() == {"total": ((3,), np.dtype(np.float16))}
    for k in (1, 2, 3):
        (got,) = package.run({"x": np.array([1, 2, 3], np.float32)}, state=state, rounding=True).values()
        np.testing.assert_array_equal(got, k * np.array([1, 2, 3]))
        np.testing.assert_array_equal(state["total"], got)
        assert state["total"].dtype == np.float16
    with pytest.raises(InputError, match="states unexpected other"):
        package.run({"x": np.zeros(3, np.float32)}, state={"other": np.zeros(3)})


def test_functions_of_one_package(tmp_path):
    x, descriptor = _normal(2, 3), ct.utils.MultiFunctionDescriptor()
    for name, build in (
        ("twice", lambda a: mb.mul(x=a, y=2.0, name="y")),
        ("half", lambda a: mb.mul(x=a, y=0.5, name="y")),
    ):
        (tmp_path / name).mkdir()
        descriptor.add_function(str(_save(tmp_path / name, build, x, opset=IOS18)), "main", name)
    descriptor.default_function_name = "half"
    with tools.quiet():
        ct.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    package = Package.load(tmp_path / "both.mlpackage")
    assert sorted(package.functions) == ["half", "twice"]
    assert package.default == "half"
    np.testing.assert_array_equal(package.run({"x0": x})["y"], x / 2)
    np.testing.assert_array_equal(package.run({"x0": x}, function="twice")["y"], x * 2)


def test_metadata_and_audits(tmp_path):
    x = _normal(1, 4, 6, 6)
    model = _convert(
        lambda a: mb.relu(x=mb.reshape(x=mb.conv(x=a, weight=_normal(8, 4, 3, 3)), shape=[1, 2, 4, 4, 4])), x
    )
    model.user_defined_metadata["made by"] = "a test"
    model.save(str(tmp_path / "model.mlpackage"))
    package = Package.load(tmp_path / "model.mlpackage")
    assert package.metadata["made by"] == "a test"
    assert package.kinds() == Counter(conv=1, reshape=1, relu=1)
    assert max(len(t.shape) for o in package.operations() for t in o.outputs.values()) == 5
    # What coremltools itself reads from the same file.
    spec = ct.utils.load_spec(str(tmp_path / "model.mlpackage"))
    read = load(spec, spec.specificationVersion, str(tmp_path / "model.mlpackage/Data/com.apple.CoreML/weights"))
    assert package.kinds() == Counter(o.op_type for o in read.functions["main"].operations if o.op_type != "const")


def test_constants_need_not_be_kept(tmp_path):
    """With no room for constants, each run reads them again, and computes the same."""
    path, x = _weighty(tmp_path)
    lean, rich = Package.load(path, keep=0), Package.load(path)
    for _ in range(2):
        np.testing.assert_array_equal(*(next(iter(p.run({"x0": x}).values())) for p in (lean, rich)))
    assert not lean._kept
    assert rich._kept


@given(
    name=st.sampled_from(["uint1", "uint2", "uint3", "uint4", "uint6", "int4"]),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_elements_of_less_than_a_byte_are_unpacked(name, shape):
    """As coremltools packs them."""
    bits = int(name.lstrip("uint"))
    low = -(1 << (bits - 1)) if name == "int4" else 0
    values = RANDOM.randint(low, low + (1 << bits), shape).astype(np.int8 if name == "int4" else np.uint8)
    packed = pack_elements_into_bits(values, bits)
    np.testing.assert_array_equal(unpack(packed.view(np.uint8), name, tuple(shape)), values)


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("vector", [None, 0, 1])
def test_palettes_of_groups_and_of_vectors(groups, vector):
    lut, indices = _normal(*groups, 4, 1 if vector is None else 2), RANDOM.randint(0, 4, (4, 6)).astype(np.uint8)
    got = compressed.constexpr_lut_to_dense(
        mx.array(indices), mx.array(lut), None, None if vector is None else mx.array(vector)
    )
    np.testing.assert_array_equal(np.array(got), lut_to_dense(indices, lut, vector))


def test_sparse_constants():
    """Joined with palettes and scales, they are what is dense at the ones of the mask, and zero elsewhere."""
    mask = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]], np.uint8)
    indices = np.array([0, 1, 1, 0, 1, 1, 0, 0, 1], np.uint8)
    for lut, axis in ((_normal(1, 1, 2, 1), None), (_normal(1, 1, 2, 2), 0)):
        arrays = [mx.array(a) for a in (mask, indices, lut)]
        got = compressed.constexpr_sparse_to_dense(
            *reversed(compressed.constexpr_lut_to_sparse(*arrays, None if axis is None else mx.array(axis)))
        )
        dense = np.zeros(mask.shape, np.uint8)
        dense[mask == 1] = indices
        whole = np.repeat(mask, lut.shape[-1], 0)
        np.testing.assert_array_equal(np.array(got), lut_to_dense(dense, lut, axis) * whole)
    data, scale, offset = np.arange(9, dtype=np.int8), _normal(2, 3), _normal(2, 3)
    out, kept = compressed.constexpr_sparse_blockwise_shift_scale(*map(mx.array, (mask, data, scale, offset)))
    dense = np.zeros(mask.shape)
    dense[mask == 1] = data
    want = (dense - offset.repeat(2, 0).repeat(2, 1)) * scale.repeat(2, 0).repeat(2, 1)
    _agree(np.array(kept), want[mask == 1])
    # iOS 16: the mask as packed bits.
    bits = np.packbits(mask.ravel(), bitorder="little")
    got = compressed.constexpr_sparse_to_dense(mx.array(data), mx.array(bits), mx.array(_numbers(4, 6)))
    np.testing.assert_array_equal(np.array(got)[mask == 1], data)
    assert not np.array(got)[mask == 0].any()
    assert (np.array(out) == mask).all()


def test_any_einstein_sum():
    p, q = _normal(2, 5, 1, 7), _normal(2, 6, 4, 5)
    got = layers.einsum((mx.array(p), mx.array(q)), "bchq,bkhc->bkhq")
    _agree(np.array(got), np.einsum("bcq,bkhc->bkhq", p[:, :, 0], q))


def test_coremltools_is_imported_in_silence():
    code = "import coreml.tools, logging; print(logging.getLogger('coremltools').level)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
