"""Each operation of the emitter computes in Apple's runtime what its name says, in float32 and float16."""

import math

import numpy as np
import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from coreml.coreai.emitter import Emitter
from coreml.coreai.runtime import Runtime
from mlx_sd.core.errors import InputError
from tests.support import core_ai

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 6, 4, 5), dtype=np.float32)
Y = RNG.standard_normal((2, 6, 4, 5), dtype=np.float32)
W = RNG.standard_normal((3, 6, 3, 3), dtype=np.float32)
ROWS, MATRIX = X.reshape(2, 6, 20), RNG.standard_normal((7, 20), dtype=np.float32)
IDS = np.array([[3, 0, 4]], np.int32)
erf = np.vectorize(math.erf)


def conv(x: np.ndarray, w: np.ndarray, stride: int, pad: tuple[int, ...]) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), pad[:2], pad[2:]))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, w)


def normal(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def like(x, array):
    return array.astype(x.dtype)


GAMMA, BETA = RNG.standard_normal((2, 6), dtype=np.float32)
# name -> (inputs, what is emitted, numpy's result)
CASES = {
    "add": ((X, Y), lambda e, x, y: e.add(x=x, y=y), X + Y),
    "add_row": ((X,), lambda e, x: e.add(x=x, y=like(x, Y[0, 0, 0])), X + Y[0, 0, 0]),
    "sub_from_number": ((X,), lambda e, x: e.sub(x=np.float32(1), y=x), 1 - X),
    "mul": ((X, Y), lambda e, x, y: e.mul(x=x, y=y), X * Y),
    "real_div": ((X,), lambda e, x: e.real_div(x=x, y=np.float32(4)), X / 4),
    "exp": ((X,), lambda e, x: e.exp(x=x), np.exp(X)),
    "sin": ((X,), lambda e, x: e.sin(x=x), np.sin(X)),
    "cos": ((X,), lambda e, x: e.cos(x=x), np.cos(X)),
    "silu": ((X,), lambda e, x: e.silu(x=x), X / (1 + np.exp(-X))),
    "gelu": ((X,), lambda e, x: e.gelu(x=x, mode="EXACT"), X * (1 + erf(X / np.sqrt(2))) / 2),
    "quick_gelu": ((X,), lambda e, x: e.gelu(x=x, mode="SIGMOID_APPROXIMATION"), X / (1 + np.exp(-1.702 * X))),
    "reshape": ((X,), lambda e, x: e.reshape(x=x, shape=[2, 120]), X.reshape(2, 120)),
    "transpose": ((X,), lambda e, x: e.transpose(x=x, perm=[0, 2, 3, 1]), X.transpose(0, 2, 3, 1)),
    "tile": ((X,), lambda e, x: e.tile(x=x, reps=[1, 2, 1, 3]), np.tile(X, (1, 2, 1, 3))),
    "concat": ((X, Y), lambda e, x, y: e.concat(values=[x, y], axis=-3), np.concatenate([X, Y], 1)),
    "split": ((X,), lambda e, x: e.split(x=x, split_sizes=[1, 2, 3], axis=1)[1], X[:, 1:3]),
    "split_equally": ((X,), lambda e, x: e.split(x=x, num_splits=3, axis=1)[2], X[:, 4:]),
    "slice": (
        (X,),
        lambda e, x: e.slice_by_index(x=x, begin=[0, 1, 0, 1], end=[2, 6, 4, 4], stride=[1, 2, 1, 2]),
        X[:, 1:6:2, :, 1:4:2],
    ),
    "pad": (
        (X,),
        lambda e, x: e.pad(x=x, pad=[0, 0, 0, 1, 2, 0, 0, 0], mode="constant", constant_val=0.5),
        np.pad(X, ((0, 0), (0, 1), (2, 0), (0, 0)), constant_values=0.5),
    ),
    "upsample": (
        (X,),
        lambda e, x: e.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=2),
        X.repeat(2, 2).repeat(2, 3),
    ),
    "conv": ((X,), lambda e, x: e.conv(x=x, weight=like(x, W)), conv(X, W, 1, (0, 0, 0, 0))),
    "conv_padded": (
        (X,),
        lambda e, x: e.conv(
            x=x, weight=like(x, W), strides=[2, 2], pad_type="custom", pad=[1, 2, 0, 1], bias=like(x, GAMMA[:3])
        ),
        conv(X, W, 2, (1, 2, 0, 1)) + GAMMA[:3].reshape(1, 3, 1, 1),
    ),
    "linear": (
        (ROWS,),
        lambda e, x: e.linear(x=x, weight=like(x, MATRIX), bias=like(x, MATRIX[:, 0])),
        ROWS @ MATRIX.T + MATRIX[:, 0],
    ),
    "linear_of_vectors": ((ROWS[0],), lambda e, x: e.linear(x=x, weight=like(x, MATRIX)), ROWS[0] @ MATRIX.T),
    "matmul": ((X, Y), lambda e, x, y: e.matmul(x=x, y=y, transpose_y=True), X @ Y.swapaxes(2, 3)),
    "matmul_turned": ((X, Y), lambda e, x, y: e.matmul(x=x, y=y, transpose_x=True), X.swapaxes(2, 3) @ Y),
    "einsum": (
        (X[:, :, :1], X.transpose(0, 3, 2, 1)[:, :, :1]),
        lambda e, x, y: e.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        np.einsum("nchw,nwhu->nchu", X[:, :, :1], X.transpose(0, 3, 2, 1)[:, :, :1]),
    ),
    "reduce_mean": (
        (X,),
        lambda e, x: e.reduce_mean(x=x, axes=[2, 3], keep_dims=True),
        X.mean((2, 3), keepdims=True),
    ),
    "reduce_log_sum_exp": (
        (X,),
        lambda e, x: e.reduce_log_sum_exp(x=x, axes=[1], keep_dims=True),
        np.log(np.exp(X).sum(1, keepdims=True)),
    ),
    "reduce_log_sum_exp_of_large": (
        (np.array([[800.0, 800.0, -800.0]]),),
        lambda e, x: e.reduce_log_sum_exp(x=x, axes=[1], keep_dims=True),
        np.array([[800 + np.log(2)]]),
    ),
    "softmax": ((X,), lambda e, x: e.softmax(x=x, axis=-3), softmax(X, 1)),
    "layer_norm": (
        (X,),
        lambda e, x: e.layer_norm(x=x, axes=[1], epsilon=1e-5, gamma=like(x, GAMMA), beta=like(x, BETA)),
        normal(X, (1,), 1e-5) * GAMMA.reshape(6, 1, 1) + BETA.reshape(6, 1, 1),
    ),
    "layer_norm_of_two": ((X,), lambda e, x: e.layer_norm(x=x, axes=[2, 3], epsilon=0.1), normal(X, (2, 3), 0.1)),
}
WHOLE = {  # those whose inputs or results are whole numbers
    "gather": ((IDS,), lambda e, i: e.gather(x=MATRIX, indices=i, axis=0), MATRIX[IDS]),
    "gather_nd": (
        (IDS, IDS[:, ::-1].copy()),
        lambda e, i, j: e.gather_nd(x=MATRIX, indices=e.stack(values=[i, j], axis=-1)),
        MATRIX[IDS, IDS[:, ::-1]],
    ),
    "stack_broadcasts": (
        (IDS,),
        lambda e, i: e.stack(values=[i, np.array([[9]], np.int32)], axis=-1),
        np.stack([IDS, np.full_like(IDS, 9)], -1),
    ),
    "argmax_is_the_first": (
        (np.array([[1, 5, 5, 2]], np.int32),),
        lambda e, x: e.reduce_argmax(x=x, axis=-1, keep_dims=True),
        np.array([[1]], np.int32),
    ),
    "argmin": (
        (np.array([[4, 5, 1, 1]], np.int32),),
        lambda e, x: e.reduce_argmin(x=x, axis=1, keep_dims=True),
        np.array([[2]], np.int32),
    ),
    "equal": ((IDS,), lambda e, x: e.cast(x=e.equal(x=x, y=np.int32(3)), dtype="int32"), (IDS == 3).astype(np.int32)),
    "greater_equal": (
        (IDS,),
        lambda e, x: e.cast(x=e.greater_equal(x=x, y=np.int32(3)), dtype="fp32"),
        (IDS >= 3).astype(np.float32),
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """results[name, dtype] is what the runtime computes; all functions are in one asset."""
    functions, feeds = {}, {}
    for cases, dtypes in ((CASES, (np.float32, np.float16)), (WHOLE, (None,))):
        for name, (arrays, build, _) in cases.items():
            for dtype in dtypes:
                full = f"{name}_{np.dtype(dtype).name}" if dtype else name
                feeds[full] = {f"x{i}": a.astype(dtype) if dtype else a for i, a in enumerate(arrays)}
                functions[full] = (feeds[full], build)
    path = tmp_path_factory.mktemp("emitter") / "operations.aimodel"
    core_ai.write(functions, path)
    runtime = Runtime(path)
    yield {name: runtime.run(name, feeds[name])["y"] for name in functions}
    runtime.close()


@pytest.mark.parametrize("dtype", ("float32", "float16"))
@pytest.mark.parametrize("name", CASES)
def test_an_operation_computes_what_numpy_computes(name, dtype, results):
    expected, result = CASES[name][2], results[f"{name}_{dtype}"]
    assert result.dtype == dtype and result.shape == expected.shape
    limit = 3e-6 if dtype == "float32" else 4e-3
    assert np.abs(result.astype(np.float32) - expected).max() <= limit * np.abs(expected).max()


@pytest.mark.parametrize("name", WHOLE)
def test_an_operation_on_whole_numbers_is_exact(name, results):
    expected = WHOLE[name][2]
    assert results[name].dtype == expected.dtype
    assert np.array_equal(results[name], expected)


def test_silu_for_the_neural_engine_is_a_product(tmp_path):
    """Its compiler computes the operation silu in float32."""
    core_ai.write({"main": ({"x": X}, lambda e, x: e.silu(x=x))}, tmp_path / "x.aimodel", Emitter(fused_silu=False))
    runtime = Runtime(tmp_path / "x.aimodel")
    assert np.abs(runtime.run("main", {"x": X})["y"] - X / (1 + np.exp(-X))).max() <= 1e-6
    runtime.close()
    assert b"sigmoid" in (tmp_path / "x.aimodel/main.mlirb").read_bytes()


def test_an_operation_without_a_form_is_named():
    with pytest.raises(InputError, match="the operation tan has no form in Core AI"):
        Emitter().tan(x=1)
