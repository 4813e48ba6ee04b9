"""Each choice computes the same: bit for bit where numbers are only cut or padded, else up to the last digits."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd import StableDiffusion
from mlx_sd.core import blas
from mlx_sd.networks import cpu, ops, tuning
from mlx_sd.networks.tuned_unet import TunedUNet
from mlx_sd.networks.tuning import DEFAULT, Tuning
from tests.support.effort import slow_but

COMPILES = [Tuning(compile_step=True), Tuning(fuse_from=4096), Tuning(True, 16, "all", 4096, 4096, 4096)]
QUICK = [Tuning(conv_in_channels=16), Tuning(piece=4096), Tuning(scores=4096), Tuning(scores=1 << 22)]


@pytest.fixture(scope="module")
def unet():
    return StableDiffusion.load("tiny", dtype="float32").unet


@pytest.mark.parametrize("tuned", slow_but(QUICK, [*QUICK, *COMPILES]), ids=str)
def test_a_tuned_step_is_the_step(unet, tuned):
    """On MKL in its strict mode all bits are equal; other libraries may sum in another order."""
    mx.random.seed(0)
    x, context = mx.random.normal((2, 8, 8, 4)), mx.random.normal((2, 77, 192))
    full = unet(x, mx.array(400.0), context, depth=1)
    cached = unet(x, mx.array(300.0), context, depth=1, deep=full[1])
    run = TunedUNet(unet, tuned)
    tuned_full = run(x, mx.array(400.0), context, depth=1)
    tuned_cached = run(x, mx.array(300.0), context, depth=1, deep=tuned_full[1])
    assert tuning.current() == DEFAULT
    for expected, result in zip((*full, cached[0]), (*tuned_full, tuned_cached[0]), strict=True):
        if "mkl" in (blas.preload() or ""):
            assert mx.array_equal(expected, result)
        np.testing.assert_allclose(np.array(result), np.array(expected), atol=1e-5)


@pytest.mark.parametrize("size", [1024, 4096, 1 << 20])
def test_an_activation_in_pieces_is_the_activation(size):
    mx.random.seed(1)
    x = mx.random.normal((3, 5000)) * 4
    for function in (cpu.silu, cpu.gelu, cpu.quick_gelu):
        expected = function(x)
        with tuning.using(Tuning(piece=size)):
            assert mx.array_equal(function(x), expected)


def test_weights_that_are_loaded_later_are_those_of_a_compiled_step(unet, monkeypatch):
    """The weights are inputs of what is compiled, and not a part of it."""
    inputs = []
    monkeypatch.setattr(mx, "compile", lambda run, inputs=None, _seen=inputs: _seen.append(inputs) or run)
    TunedUNet(unet, Tuning(compile_step=True))(mx.zeros((1, 8, 8, 4)), mx.array(1.0), mx.zeros((1, 77, 192)))
    assert inputs[0][0] is unet.state


@pytest.mark.slow
def test_a_compiled_step_follows_its_weights(unet):
    x, context = mx.ones((1, 8, 8, 4)), mx.ones((1, 77, 192))
    run, weight = TunedUNet(unet, Tuning(compile_step=True)), unet.conv.weight
    before = run(x, mx.array(1.0), context)[0]
    try:
        unet.conv.weight = weight * 2
        assert mx.array_equal(run(x, mx.array(1.0), context)[0], unet(x, mx.array(1.0), context)[0])
        assert not mx.array_equal(run(x, mx.array(1.0), context)[0], before)
    finally:
        unet.conv.weight = weight


@pytest.mark.parametrize(
    ("version", "sizes"),
    [
        ("0.31.9", (64, 80, 128)),
        ("0.32.0", (64, 80, 128)),
        ("0.32.1", (64, 72, 80, 96, 128)),
        ("0.33.0.dev20261201", (64, 72, 80, 96, 128)),
        ("1.0", (64, 72, 80, 96, 128)),
    ],
)
def test_heads_are_padded_to_sizes_that_a_version_of_mlx_has_a_kernel_for(version, sizes):
    assert ops.head_sizes("kernels", version) == sizes
    assert ops.head_sizes("all", version) == (*sizes, 192, 256) and ops.head_sizes("none", version) == ()


def test_heads_of_160_are_padded_only_where_a_machine_was_tuned_to():
    assert (ops.fused_head(40), ops.fused_head(80), ops.fused_head(160)) == (64, 80, 160)
    with tuning.using(Tuning(attention_heads="all")):
        assert (ops.fused_head(40), ops.fused_head(160)) == (64, 192)
    with tuning.using(Tuning(attention_heads="none")):
        assert (ops.fused_head(40), ops.fused_head(160)) == (40, 160)


@pytest.mark.parametrize("heads", tuning.HEADS)
@pytest.mark.parametrize("dim", [40, 160])
def test_padded_heads_attend_as_heads_that_are_not(heads, dim):
    mx.random.seed(dim)
    q, k, v = (mx.random.normal((1, 2, 9, dim)) for _ in range(3))
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=dim**-0.5)
    with tuning.using(Tuning(attention_heads=heads)):
        result = ops.padded_attention(q, k, v, None, dim**-0.5)
    np.testing.assert_allclose(np.array(result), np.array(expected), atol=1e-5)


def test_a_tuning_ends_with_its_block_also_after_an_error():
    with pytest.raises(RuntimeError), tuning.using(Tuning(piece=4096)):
        raise RuntimeError
    assert tuning.current() == DEFAULT


@pytest.mark.parametrize(("tuned", "channels"), [(DEFAULT, 4), (Tuning(conv_in_channels=16), 16)])
def test_channels_are_padded_only_where_a_machine_was_tuned_to(unet, monkeypatch, tuned, channels):
    seen, convolve = [], mx.conv2d
    monkeypatch.setattr(mx, "conv2d", lambda x, *a, **k: seen.append(x.shape[-1]) or convolve(x, *a, **k))
    TunedUNet(unet, tuned)(mx.zeros((1, 8, 8, 4)), mx.array(1.0), mx.zeros((1, 77, 192)))
    assert min(seen) == channels


@pytest.mark.parametrize(("tuned", "pieces"), [(DEFAULT, 1), (Tuning(scores=4096), 1 + 2 * 300 * 300 // 4096)])
def test_scores_are_cut_as_a_machine_was_tuned_to(monkeypatch, tuned, pieces):
    calls, attend = [], cpu._attend
    monkeypatch.setattr(cpu, "_attend", lambda *arrays: calls.append(1) or attend(*arrays))
    q = mx.ones((1, 2, 300, 8))
    with tuning.using(tuned):
        cpu.attention(q, q, q, None, 1.0)
    assert len(calls) == 1 if pieces == 1 else len(calls) >= pieces
