"""What each kind of adapter adds to a weight: one formula per kind, over small factors.

Factors are as torch stores them, (out, in) or (out, in, height, width). A formula returns the full difference as
(out, in, height, width) where its factors tell the size of the kernel, and as (out, in * height * width) otherwise.
"""

import math
from collections.abc import Callable, Mapping
from itertools import product
from typing import NamedTuple

import mlx.core as mx

Factors = Mapping[str, mx.array]

# Roles beside the factors: a difference of the bias, LoRA's own bias, and DoRA's magnitudes.
BIASES = ("diff_b", "bias")
DORA = ("dora_scale", "magnitude")
EXTRAS = (*BIASES, *DORA)


class Kind(NamedTuple):
    """A way to store a difference: its factors and its formula."""

    name: str
    forms: tuple[frozenset[str], ...]  # the sets of factors it comes in
    ranked: tuple[str, ...]  # factors whose first axis is the rank
    delta: Callable[[Factors], mx.array]


def lora(f: Factors) -> mx.array:
    """Returns up @ down; with a kernel between two convolutions of size one, their Tucker product (LoCon)."""
    if "mid" in f:
        return _tucker(f["mid"], _matrix(f["up"]).T, _matrix(f["down"]))
    return (_matrix(f["up"]) @ _matrix(f["down"])).reshape(f["up"].shape[0], *f["down"].shape[1:])


def lora_pair(f: Factors) -> tuple[mx.array, mx.array]:
    """Returns (down, up) of `lora`: (rank, in) or (rank, in, h, w), with a kernel from the middle, and (out, rank)."""
    if "mid" in f:
        return mx.einsum("rshw,si->rihw", f["mid"], _matrix(f["down"])), _matrix(f["up"])
    return f["down"], _matrix(f["up"])


def loha(f: Factors) -> mx.array:
    """Returns the elementwise product of two low-rank matrices (Hyeon-Woo et al. 2022, FedPara)."""
    if "hada_t1" in f:
        w1 = _tucker(f["hada_t1"], f["hada_w1_a"], f["hada_w1_b"])
        w2 = _tucker(f["hada_t2"], f["hada_w2_a"], f["hada_w2_b"])
    else:
        w1, w2 = f["hada_w1_a"] @ f["hada_w1_b"], f["hada_w2_a"] @ f["hada_w2_b"]
    if w1.shape != w2.shape:
        raise ValueError(f"its halves are of the shapes {w1.shape} and {w2.shape}")
    return w1 * w2


def lokr(f: Factors) -> mx.array:
    """Returns the Kronecker product of a small matrix and a larger one; either may itself be of low rank."""
    w1 = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"] @ f["lokr_w1_b"]
    if "lokr_w2" in f:
        w2 = f["lokr_w2"]
    elif "lokr_t2" in f:
        w2 = _tucker(f["lokr_t2"], f["lokr_w2_a"], f["lokr_w2_b"])
    else:
        w2 = (f["lokr_w2_a"] @ _matrix(f["lokr_w2_b"])).reshape(-1, *f["lokr_w2_b"].shape[1:])
    product = mx.kron(w1, _matrix(w2))  # a kernel's axes come last, so w2 may be flat
    return product.reshape(product.shape[0], -1, *w2.shape[2:])


def full(f: Factors) -> mx.array:
    """Returns the difference, which is stored as it is."""
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
    """Returns the kind that has exactly these factors; None where no kind has."""
    return next((kind for kind in KINDS if roles in kind.forms), None)


def decomposed(weight: mx.array, magnitude: mx.array, axis: int) -> mx.array:
    """Returns `weight` with the norm of each slice along `axis` replaced by its magnitude (DoRA, Liu et al. 2024)."""
    others = [a for a in range(weight.ndim) if a != axis % weight.ndim]
    norm = mx.sqrt(mx.square(weight).sum(axis=others, keepdims=True))
    return weight * (magnitude.reshape(norm.shape) / mx.maximum(norm, 1e-30))


def scaling(alpha: float | None, rank: int | None, stabilised: bool) -> float:
    """Returns alpha / rank, or alpha / sqrt(rank) if rank-stabilised (Kalajdzievski 2023); without alpha, or 0: 1."""
    if not alpha or not rank:
        return 1.0
    return alpha / (math.sqrt(rank) if stabilised else rank)


def _matrix(a: mx.array) -> mx.array:
    return a.reshape(a.shape[0], -1)


def _tucker(core: mx.array, outputs: mx.array, inputs: mx.array) -> mx.array:
    """Multiplies (rank, rank, h, w) by (rank, out) and (rank, in) -> (out, in, h, w)."""
    return mx.einsum("rshw,ro,si->oihw", core, outputs, inputs)
