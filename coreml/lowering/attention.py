"""Three forms of attention: all heads in one product, head by head for the Neural Engine, and Core ML's own operation.

Each rule takes queries, keys and values (B, heads, tokens, dim) and returns (B, heads, tokens, dim).
"""

from typing import Any

import numpy as np

from mlx_sd.networks.graph import Node

from .layout import TOKENS, Value, plain, transposed
from .lower import Lowering, Rule

_HEADS = (0, 1, 3, 2)  # (B, heads, dim, tokens): how a (B, C, 1, S) tensor reads when its channels are cut into heads


def original(lowering: Lowering, node: Node, q: Value, k: Value, v: Value, mask: Value | None = None) -> Value:
    """Emits two matrix products over all heads and a softmax between them, in channel-first storage."""
    weights = _weights(lowering, node, lowering.stored(q, _HEADS), lowering.stored(k, _HEADS), mask, tokens_last=True)
    y = lowering.emit.matmul(x=lowering.stored(v, _HEADS), y=weights, transpose_y=True)
    return Value(y, tuple(y.shape), _HEADS)


def rows(lowering: Lowering, node: Node, q: Value, k: Value, v: Value, mask: Value | None = None) -> Value:
    """Emits the same two products in channel-last storage, that of the network."""
    order = (0, 1, 2, 3)
    weights = _weights(lowering, node, lowering.stored(q, order), lowering.stored(k, order), mask, tokens_last=False)
    return plain(lowering.emit.matmul(x=weights, y=lowering.stored(v, order)))


def _weights(lowering: Lowering, node: Node, q: Any, k: Any, mask: Value | None, tokens_last: bool) -> Any:
    """Emits softmax(q k^T / sqrt(dim) + mask) as (B, heads, queries, keys)."""
    emit = lowering.emit
    scores = emit.matmul(x=_scaled(lowering, node, q), y=k, transpose_x=tokens_last, transpose_y=not tokens_last)
    if mask is not None:
        bias = lowering.stored(lowering.reshape(mask, (1, 1, *mask.shape[-2:])), (0, 1, 2, 3))
        scores = emit.add(x=scores, y=bias.astype(lowering.dtype_of(scores)) if isinstance(bias, np.ndarray) else bias)
    return emit.softmax(x=scores, axis=-1)


def split_einsum(lowering: Lowering, node: Node, q: Value, k: Value, v: Value) -> Value:
    """Emits two einsums for each head, fastest on the Neural Engine (Apple, Deploying Transformers on the ANE, 2022).

    The einsums take keys as (B, S, 1, C): the one transpose in this form.
    """
    emit = lowering.emit
    batch, heads, tokens, dim = q.shape

    def joined(x: Value) -> Value:
        """Joins the heads: (B, heads, S, dim) -> (B, S, heads * dim)."""
        return lowering.reshape(transposed(x, [0, 2, 1, 3]), (x.shape[0], x.shape[2], heads * dim))

    keys_order = (0, 1, None, 2)
    queries = emit.split(x=_scaled(lowering, node, lowering.stored(joined(q), TOKENS)), num_splits=heads, axis=1)
    keys = emit.split(x=lowering.stored(joined(k), keys_order), num_splits=heads, axis=3)
    values = emit.split(x=lowering.stored(joined(v), TOKENS), num_splits=heads, axis=1)
    outputs = []
    for query, key, value in zip(queries, keys, values, strict=True):
        scores = emit.einsum(values=(key, query), equation="nchw,nwhu->nchu")  # (B, keys, 1, queries)
        outputs.append(emit.einsum(values=(value, emit.softmax(x=scores, axis=1)), equation="nchw,nwhu->nchu"))
    y = emit.concat(values=outputs, axis=1)
    sequence = Value(y, tuple(y.shape), TOKENS)
    return transposed(lowering.reshape(sequence, (batch, tokens, heads, dim)), [0, 2, 1, 3])


def fused(lowering: Lowering, node: Node, q: Value, k: Value, v: Value) -> Value:
    """Emits scaled_dot_product_attention, from iOS 18; it takes channels last and scales by 1 / sqrt(dim) itself."""
    order = (0, 1, 2, 3)
    queries = lowering.stored(q, order)
    scale = q.shape[-1] ** -0.5
    if not np.isclose(node.attributes["scale"], scale):
        queries = lowering.emit.mul(x=queries, y=lowering.dtype_of(queries).type(node.attributes["scale"] / scale))
    y = lowering.emit.scaled_dot_product_attention(
        query=queries, key=lowering.stored(k, order), value=lowering.stored(v, order)
    )
    return plain(y)


def _scaled(lowering: Lowering, node: Node, queries: Any) -> Any:
    return lowering.emit.mul(x=queries, y=lowering.dtype_of(queries).type(node.attributes["scale"]))


ATTENTIONS: dict[str, Rule] = {"split-einsum": split_einsum, "original": original, "fused": fused}


def rule(form: str) -> Rule:
    """Returns the rule of attention for the name of a form in ATTENTIONS.

    Text has a mask and the VAE has one head: neither is worth splitting, so both are lowered in the original form.
    """
    split_rule = ATTENTIONS[form]

    def attention(lowering: Lowering, node: Node, *arrays: Value) -> Value:
        """Emits attention in the form of that name where it can be split."""
        unsplit = len(arrays) > 3 or arrays[0].shape[1] == 1
        y: Value = (original if unsplit else split_rule)(lowering, node, *arrays)
        return y

    return attention
