"""Each kind of adapter adds to a weight exactly what its formula says."""

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings

from convert.adapters import formulas
from tests.support import adapters

sizes = st.integers(1, 5)


def arrays(**shapes):
    return {role: adapters.numbers(("x", "y"), role, *shape) for role, shape in shapes.items()}


def delta(kind, factors):
    found = formulas.kind_of(frozenset(factors))
    assert found.name == kind
    return np.array(found.delta({role: mx.array(array) for role, array in factors.items()}))


@given(sizes, sizes, sizes, sizes, sizes)
@settings(deadline=None, max_examples=30)
def test_kernels_between_two_of_size_one(o, i, r, h, w):
    f = arrays(up=(o, r, 1, 1), down=(r, i, 1, 1), mid=(r, r, h, w))
    expected = np.zeros((o, i, h, w))
    for a in range(r):
        for b in range(r):
            expected += f["up"][:, a].reshape(o, 1, 1, 1) * f["mid"][a, b] * f["down"][b].reshape(1, i, 1, 1)
    assert np.allclose(delta("LoRA", f), expected, atol=1e-6)


@given(sizes, sizes, sizes, st.booleans())
@settings(deadline=None, max_examples=30)
def test_loha_is_a_product_of_products(o, i, r, tucker):
    f = arrays(hada_w1_a=(o, r), hada_w1_b=(r, i), hada_w2_a=(o, r), hada_w2_b=(r, i))
    # Not by a BLAS: that of NumPy warned once of an invalid value in finite products, and not the next time.
    first, second = (np.einsum("or,ri->oi", f[f"hada_{w}_a"], f[f"hada_{w}_b"]) for w in ("w1", "w2"))
    expected = first * second
    if tucker:  # with identities as cores it is the same; its first factors lie the other way
        core = np.eye(r, dtype=np.float32).reshape(r, r, 1, 1)
        f = {role: array.T if role.endswith("_a") else array for role, array in f.items()}
        f |= {"hada_t1": core, "hada_t2": core}
        expected = expected[..., None, None]
    assert np.allclose(delta("LoHa", f), expected, atol=1e-6)


@given(sizes, sizes, sizes, sizes, sizes, st.sampled_from([(), (1, 1), (3, 2)]), st.booleans())
@settings(deadline=None, max_examples=40)
def test_lokr_is_a_kronecker_product(a, b, c, d, r, kernel, low):
    f = arrays(lokr_w1=(a, c), lokr_w2=(b, d, *kernel))
    if low:
        f = arrays(lokr_w1_a=(a, r), lokr_w1_b=(r, c), lokr_w2_a=(b, r), lokr_w2_b=(r, d, *kernel))
        f_w1, f_w2 = f["lokr_w1_a"] @ f["lokr_w1_b"], np.einsum("br,r...->b...", f["lokr_w2_a"], f["lokr_w2_b"])
    else:
        f_w1, f_w2 = f["lokr_w1"], f["lokr_w2"]
    expected = np.stack([np.kron(f_w1, f_w2[(..., *at)]) for at in np.ndindex(*kernel)], -1)
    assert np.allclose(delta("LoKr", f), expected.reshape(a * b, c * d, *kernel), atol=1e-6)


@given(sizes, sizes, st.sampled_from([0, -1]), st.booleans())
@settings(deadline=None, max_examples=30)
def test_dora_sets_norms_and_keeps_directions(o, i, axis, image):
    weight = adapters.numbers(("x", "y"), f"w{o}{i}", o, *[3, 3] * image, i)
    magnitude = np.abs(adapters.numbers(("x", "y"), "m", o if axis == 0 else i))
    found = np.array(formulas.decomposed(mx.array(weight), mx.array(magnitude), axis))
    others = tuple(a for a in range(weight.ndim) if a != axis % weight.ndim)
    assert np.allclose(np.sqrt((found**2).sum(others)), magnitude, rtol=1e-5)
    ratio = found / weight
    assert np.allclose(ratio, ratio.mean(others, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize(("alpha", "rank", "stabilised", "expected"), [
    (None, 4, False, 1), (0, 4, False, 1), (2, 4, False, 0.5), (2, 4, True, 1), (3, None, False, 1),
])  # fmt: skip
def test_scaling(alpha, rank, stabilised, expected):
    assert formulas.scaling(alpha, rank, stabilised) == expected
