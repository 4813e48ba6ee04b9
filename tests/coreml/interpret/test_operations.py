"""Elementwise operations and reductions, saved and interpreted, compute what numpy and scipy do."""

import math

import numpy as np
import pytest
from scipy import special

from coreml.mil.coremltools import mb
from tests.support.programs import agree, normal, run

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
    x, positive = normal(3, 5) * 3, np.abs(normal(3, 5)) + 0.1
    ops = [(getattr(mb, name), f, x) for name, f in UNARY.items()]
    ops += [(getattr(mb, name), f, positive) for name, f in POSITIVE.items()]
    result = run(folder, lambda a, b: [op(x=a if v is x else b) for op, _, v in ops], x, positive)
    for out, (op, f, v) in zip(result, ops, strict=True):
        agree(out, f(v.astype(np.float64))), op


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_elementwise_operations_of_two_arguments_broadcast(folder, dtype):
    x, y = (normal(2, 1, 5) * 9).astype(dtype), (normal(3, 1) * 9).astype(dtype)
    y = np.where(y == 0, 2, y).astype(dtype)
    names = [n for n in BINARY if dtype == np.float32 or n != "real_div"]
    result = run(folder, lambda a, b: [getattr(mb, n)(x=a, y=b) for n in names], x, y)
    for name, out in zip(names, result, strict=True):
        agree(out, BINARY[name](x, y))


def test_the_other_elementwise_operations(folder):
    x, y = normal(4, 3), normal(4, 3)
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

    expected = [f(p, q) for f in LOGICAL.values()] + [
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
    result = run(folder, lambda a, b: build(a, b, mb.greater(x=a, y=0.0), mb.greater(x=b, y=0.0)), x, y)
    for g, w in zip(result, expected, strict=True):
        agree(g, w)


@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
def test_gelu(folder, mode):
    x = normal(100) * 4
    expected = {
        "EXACT": x * special.ndtr(x.astype(np.float64)),
        "TANH_APPROXIMATION": 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "SIGMOID_APPROXIMATION": x * special.expit(1.702 * x),
    }
    agree(*run(folder, lambda a: mb.gelu(x=a, mode=mode), x), expected[mode])


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axes, keep", [(None, False), ([1], True), ([-1, 0], False)])
def test_reductions(folder, name, axes, keep):
    x = normal(3, 4, 5)
    given_axes = {} if axes is None else {"axes": axes}
    (result,) = run(folder, lambda a: getattr(mb, name)(x=a, keep_dims=keep, **given_axes), x)
    agree(result, REDUCTIONS[name](x.astype(np.float64), axis=None if axes is None else tuple(axes), keepdims=keep))


def test_where_the_extremes_are_and_running_sums(folder):
    x = normal(3, 4, 5)
    result = run(
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
    expected = [x.argmax(1, keepdims=True), x.argmin(-1), x.cumsum(1), ends - x]
    for g, w in zip(result, expected, strict=True):
        agree(g, w)
