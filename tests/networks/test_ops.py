"""The CPU's activations and attention equal MLX's own; every attention is eligible for Apple's fused kernel."""

import math

import hypothesis.strategies as st
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings

from bench.models import UNETS
from mlx_sd.networks import cpu, ops
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from tests.support.effort import slow_but


def _difference(a: mx.array, b: mx.array) -> float:
    return mx.abs(a.astype(mx.float32) - b.astype(mx.float32)).max().item()


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("size", slow_but([7, (1 << 18) + 1], [1, 7, 1 << 18, (1 << 18) + 1, (1 << 21) + 3]))
def test_activations_equal_their_definitions(scale, size):
    x = np.random.RandomState(0).standard_normal(size).astype(np.float32) * scale
    exact = x.astype(np.float64)
    sigmoid = 1 / (1 + np.exp(-np.clip(exact, -700, 700)))
    quick = exact / (1 + np.exp(-np.clip(1.702 * exact, -700, 700)))
    phi = 0.5 * (1 + np.array(mx.erf(mx.array(x / math.sqrt(2))), np.float64))
    for ours, theirs in ((cpu.silu, exact * sigmoid), (cpu.gelu, exact * phi), (cpu.quick_gelu, quick)):
        error = np.abs(np.array(ours(mx.array(x))) - theirs).max()
        assert error <= 1e-6 * max(1.0, np.abs(theirs).max()), ours.__name__


@given(st.floats(-87, 88))
def test_exp_is_within_a_few_ulp(x):
    expected = math.exp(np.float32(x))
    assert abs(cpu.exp(mx.array(x)).item() - expected) <= expected * 1e-7 * (4 + abs(x))


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    queries=st.sampled_from([1, 5, 77, 700, 1500]),
    keys=st.sampled_from([1, 77, 1500]),
    dim=st.sampled_from([8, 40, 64]),
    masked=st.booleans(),
    dtype=st.sampled_from([mx.float32, mx.float16]),
)
def test_cpu_attention_equals_mlx(batch, heads, queries, keys, dim, masked, dtype):
    mx.random.seed(queries * keys + dim)
    q = mx.random.normal((batch, heads, queries, dim)).astype(dtype)
    k, v = (mx.random.normal((batch, heads, keys, dim)).astype(dtype) for _ in range(2))
    mask = mx.triu(mx.full((queries, keys), -1e4), k=1).astype(dtype) if masked else None
    expected = mx.fast.scaled_dot_product_attention(
        *(a.astype(mx.float32) for a in (q, k, v)),
        scale=dim**-0.5,
        mask=None if mask is None else mask.astype(mx.float32),
    )
    result = cpu.attention(q, k, v, mask, dim**-0.5)
    assert result.dtype == dtype
    assert _difference(result, expected) <= (2e-6 if dtype == mx.float32 else 2e-3)


@given(dim=st.integers(1, 300))
@settings(deadline=None, max_examples=30)
def test_padding_heads_to_a_fused_size_changes_nothing(dim):
    """Zeros add nothing to q k^T, and the padded columns of the result are cut off."""
    mx.random.seed(dim)
    q, k, v = (mx.random.normal((1, 2, 9, dim)) for _ in range(3))
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=dim**-0.5)
    assert _difference(ops.padded_attention(q, k, v, None, dim**-0.5), expected) <= 1e-5
    sizes = ops.head_sizes()
    assert ops.fused_head(dim) in sizes if dim <= max(sizes) else ops.fused_head(dim) == dim


@pytest.mark.parametrize("masked", [False, True])
def test_scores_of_heads_without_a_kernel_are_made_a_few_queries_at_a_time(masked, monkeypatch):
    q, k, v = (mx.random.normal((2, 1, 40, 300), key=mx.random.key(i)) for i in range(3))
    mask = mx.triu(mx.full((40, 40), -1e4), k=1) if masked else None
    whole = ops.padded_attention(q, k, v, mask, 0.1)
    sizes = []
    fused = mx.fast.scaled_dot_product_attention

    def counted(q, k, v, *, scale, mask=None):
        sizes.append(q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * 4)
        return fused(q, k, v, scale=scale, mask=mask)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(ops, "_SCORES", 5000)
    assert _difference(ops.padded_attention(q, k, v, mask, 0.1), whole) <= 1e-5
    assert len(sizes) == 3
    assert max(sizes) <= 5000
    sizes.clear()
    ops.padded_attention(*(a[..., :64] for a in (q, k, v)), mask, 0.1)
    assert len(sizes) == 1  # a kernel takes these heads whole


@pytest.mark.parametrize("name", UNETS)
def test_every_attention_of_a_full_size_unet_is_eligible_for_the_fused_kernel(name):
    """From shapes alone: heads fit a fused size after padding, and those that need none are not padded.

    SD 1.x has heads of 160 on its two coarsest levels, of few tokens, beyond all kernels that MLX chooses.
    """
    config = UNetConfig.from_hf(UNETS[name])
    head_sizes: dict[int, int] = {}

    def shapes_only(op, function, arrays, attributes):
        if op == "attention":
            dim = arrays[0].shape[-1]
            head_sizes[dim] = head_sizes.get(dim, 0) + 1
        return function(*arrays, **attributes)

    unet, extra = UNet(config), {}
    if config.added_time_dims:
        extra = {"text_embeds": mx.zeros((1, 1280)), "time_ids": mx.zeros((1, 6))}
    with ops.recording(shapes_only):  # lazily: nothing is computed
        unet(mx.zeros((1, 64, 64, 4)), mx.array(1.0), mx.zeros((1, 77, config.down[-1].context)), **extra)
    heads = {"sd15": {40: 10, 80: 10, 160: 12}, "sd21": {64: 32}, "sdxl": {64: 140}}[name]
    assert head_sizes == heads
    assert {ops.fused_head(d) for d in head_sizes} <= {*ops.head_sizes(), *([160] if name == "sd15" else [])}
    assert all(ops.fused_head(d) == d for d in head_sizes if d in (64, 80))


def test_group_norm_equals_mlx():
    mx.random.seed(0)
    x, layer = mx.random.normal((2, 5, 7, 24)) * 3 + 1, nn.GroupNorm(4, 24, eps=1e-6, pytorch_compatible=True)
    layer.weight, layer.bias = mx.random.normal((24,)), mx.random.normal((24,))
    result = ops.group_norm(x, layer.weight, layer.bias, groups=4, eps=1e-6)
    assert _difference(result, layer(x)) <= 1e-5


def test_a_recorder_sees_whole_operations_and_leaves_no_trace():
    operations = []

    def record(name, function, arrays, attributes):
        operations.append((name, attributes))
        return function(*arrays, **attributes)

    x = mx.zeros((1, 4, 4, 8))
    with ops.recording(record):
        ops.silu(x)
        ops.conv2d(x, mx.zeros((8, 3, 3, 8)), stride=1, padding=1)
    ops.silu(x)
    assert operations == [("silu", {}), ("conv2d", {"stride": 1, "padding": 1})]


@pytest.mark.parametrize("gradient", [False, True])
def test_attention_on_the_cpu_goes_piece_by_piece(gradient):
    """Its scores would take 268 MB; MLX would begin twenty pieces of them at once, of 4 MB and several arrays each."""
    q = mx.random.normal((1, 16, 2048, 8), key=mx.random.key(0))
    mx.eval(q)

    def attend(q):
        return ops.attention(q, q, q, scale=0.3)

    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(mx.grad(lambda q: attend(q).sum())(q) if gradient else attend(q))
    mx.synchronize()
    assert 30e6 < mx.get_peak_memory() - before < 110e6
