"""What an adapter adds to a weight, by its kind: one formula each, over small factors.

Factors are as torch keeps them, (out, in) or (out, in, height, width). A formula returns the whole difference as
(out, in, height, width) where its factors tell the size of the kernel, and as (out, in * height * width) where not.
"""

import math
from collections.abc import Callable, Mapping
from itertools import product
from typing import NamedTuple

import mlx.core as mx

Factors = Mapping[str, mx.array]

# Roles beside the factors: a difference of the bias, LoRA's own bias, and DoRA's magnitudes.
DORA = ("dora_scale", "magnitude")
BESIDE = ("diff_b", "bias", *DORA)


class Kind(NamedTuple):
    """A way to write a difference down."""

    name: str
    forms: tuple[frozenset[str], ...]  # the sets of factors it comes in
    ranked: tuple[str, ...]  # factors whose first axis is the rank
    delta: Callable[[Factors], mx.array]


def lora(f: Factors) -> mx.array:
    """up down; for convolutions with a kernel of its own between two of size one, a Tucker product (LoCon)."""
    if "mid" in f:
        return _tucker(f["mid"], _matrix(f["up"]).T, _matrix(f["down"]))
    return (_matrix(f["up"]) @ _matrix(f["down"])).reshape(f["up"].shape[0], *f["down"].shape[1:])


def loha(f: Factors) -> mx.array:
    """The elementwise product of two low-rank matrices (Hyeon-Woo et al. 2022, FedPara)."""
    if "hada_t1" in f:
        one = _tucker(f["hada_t1"], f["hada_w1_a"], f["hada_w1_b"])
        two = _tucker(f["hada_t2"], f["hada_w2_a"], f["hada_w2_b"])
    else:
        one, two = f["hada_w1_a"] @ f["hada_w1_b"], f["hada_w2_a"] @ f["hada_w2_b"]
    if one.shape != two.shape:
        raise ValueError(f"its halves are of the shapes {one.shape} and {two.shape}")
    return one * two


def lokr(f: Factors) -> mx.array:
    """The Kronecker product of a small matrix and a larger one, either of which may itself be of low rank."""
    w1 = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"] @ f["lokr_w1_b"]
    if "lokr_w2" in f:
        w2 = f["lokr_w2"]
    elif "lokr_t2" in f:
        w2 = _tucker(f["lokr_t2"], f["lokr_w2_a"], f["lokr_w2_b"])
    else:
        w2 = (f["lokr_w2_a"] @ _matrix(f["lokr_w2_b"])).reshape(-1, *f["lokr_w2_b"].shape[1:])
    whole = mx.kron(w1, _matrix(w2))  # a kernel's axes come last, so that flat is as good
    return whole.reshape(whole.shape[0], -1, *w2.shape[2:])


def full(f: Factors) -> mx.array:
    """The difference itself."""
    return f["diff"]


def _forms(*choices: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    """All sets that take one word group ("a b") from each choice."""
    return tuple(frozenset(" ".join(groups).split()) for groups in product(*choices))


_HADA = "hada_w1_a hada_w1_b hada_w2_a hada_w2_b"
_KRON = (
    ("lokr_w1", "lokr_w1_a lokr_w1_b"),
    ("lokr_w2", "lokr_w2_a lokr_w2_b", "lokr_w2_a lokr_w2_b lokr_t2"),
)
KINDS = (
    Kind("LoRA", _forms(("down up", "down up mid")), ("down",), lora),
    Kind("LoHa", _forms((_HADA, f"{_HADA} hada_t1 hada_t2")), ("hada_w1_b", "hada_w2_b"), loha),
    Kind("LoKr", _forms(*_KRON), ("lokr_w1_b", "lokr_w2_b"), lokr),
    Kind("full difference", _forms(("diff",)), (), full),
)


def kind_of(roles: frozenset[str]) -> Kind | None:
    """The kind that has exactly these factors."""
    return next((kind for kind in KINDS if roles in kind.forms), None)


def decomposed(weight: mx.array, magnitude: mx.array, axis: int) -> mx.array:
    """DoRA (Liu et al. 2024): `weight` with the norm of each slice along `axis` replaced by its magnitude."""
    others = [a for a in range(weight.ndim) if a != axis % weight.ndim]
    norm = mx.sqrt(mx.square(weight).sum(axis=others, keepdims=True))
    return weight * (magnitude.reshape(norm.shape) / mx.maximum(norm, 1e-30))


def scaling(alpha: float | None, rank: int | None, stabilised: bool) -> float:
    """alpha / rank, or alpha / sqrt(rank) where rank-stabilised (Kalajdzievski 2023); no alpha, or 0, means 1."""
    if not alpha or not rank:
        return 1.0
    return alpha / (math.sqrt(rank) if stabilised else rank)


def _matrix(a: mx.array) -> mx.array:
    return a.reshape(a.shape[0], -1)


def _tucker(core: mx.array, outputs: mx.array, inputs: mx.array) -> mx.array:
    """(rank, rank, h, w) with (rank, out) and (rank, in) -> (out, in, h, w)."""
    return mx.einsum("rshw,ro,si->oihw", core, outputs, inputs)
