"""The operations of `mlx_sd.ops` in MIL, as Apple's Neural Engine likes them.

Images are (B, C, H, W), tokens (B, C, 1, S); linears are 1x1 convolutions; nothing has more than four axes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .graph import Node
from .layout import IMAGE, TOKENS, Value, plain, transposed
from .lower import Lowering, Op, dtype_of
from .tools import mb

_HEADS = (0, 1, 3, 2)  # (B, heads, dim, tokens): how a (B, C, 1, S) tensor reads when its channels are cut into heads


def conv2d(g: Lowering, node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """Convolution; weights (out, kh, kw, in) become (out, in, kh, kw)."""
    stride, padding = node.attributes["stride"], node.attributes["padding"]
    image, pad = _unpadded(g.stored(x, IMAGE))
    out = mb.conv(
        x=image,
        weight=g.weight(weight, np.ascontiguousarray(g.array(weight).transpose(0, 3, 1, 2))),
        strides=[stride] * 2,
        pad_type="custom",
        pad=[p + padding for p in pad],
        **_bias(g, bias),
    )
    return Value(out, tuple(out.shape), IMAGE)


def _unpadded(image: Any) -> tuple[Any, list[int]]:
    """The image before zeros were put around it, and (top, bottom, left, right) of them, which the convolution adds."""
    made = image.op
    if made is None or made.op_type != "pad" or made.mode.val != "constant" or made.constant_val.val != 0:
        return image, [0] * 4
    pad = made.pad.val.tolist()
    return (made.x, pad[4:]) if not any(pad[:4]) else (image, [0] * 4)


def linear(g: Lowering, node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """Over the last axis: of tokens as a 1x1 convolution, of vectors as it is."""
    w = g.array(weight)
    if len(x.shape) == 2:
        return plain(mb.linear(x=g.stored(x, (0, 1)), weight=g.weight(weight, w), **_bias(g, bias)))
    out = mb.conv(x=g.stored(x, TOKENS), weight=g.weight(weight, w[:, :, None, None]), **_bias(g, bias))
    return Value(out, tuple(out.shape), TOKENS)


def _bias(g: Lowering, bias: Value | None) -> dict[str, Any]:
    return {} if bias is None else {"bias": g.array(bias)}


def group_norm(g: Lowering, node: Node, x: Value, weight: Value, bias: Value) -> Value:
    """Rank four, and no axis longer than the Neural Engine takes: (B, groups, C / groups * H, W) is a free view."""
    image = g.stored(x, IMAGE)
    batch, channels, height, width = image.shape
    groups = node.attributes["groups"]
    y = mb.reshape(x=image, shape=[batch, groups, channels // groups * height, width])
    y = mb.layer_norm(x=y, axes=[2, 3], epsilon=_epsilon(node, image))
    y = mb.reshape(x=y, shape=[batch, channels, height, width])
    y = mb.mul(x=y, y=g.array(weight).reshape(1, channels, 1, 1))
    y = mb.add(x=y, y=g.array(bias).reshape(1, channels, 1, 1))
    return Value(y, tuple(y.shape), IMAGE)


def layer_norm(g: Lowering, node: Node, x: Value, weight: Value, bias: Value) -> Value:
    """Over the channels."""
    tokens = g.stored(x, TOKENS)
    y = mb.layer_norm(x=tokens, axes=[1], gamma=g.array(weight), beta=g.array(bias), epsilon=_epsilon(node, tokens))
    return Value(y, tuple(y.shape), TOKENS)


def _epsilon(node: Node, x: Any) -> Any:
    return dtype_of(x).type(node.attributes["eps"])


def _scaled(node: Node, q: Any) -> Any:
    return mb.mul(x=q, y=dtype_of(q).type(node.attributes["scale"]))


def original(g: Lowering, node: Node, q: Value, k: Value, v: Value, mask: Value | None = None) -> Value:
    """All heads in one matrix product."""
    scores = mb.matmul(x=_scaled(node, g.stored(q, _HEADS)), y=g.stored(k, _HEADS), transpose_x=True)
    if mask is not None:
        scores = mb.add(x=scores, y=g.array(mask).astype(dtype_of(scores)).reshape(1, 1, *mask.shape[-2:]))
    y = mb.matmul(x=g.stored(v, _HEADS), y=mb.softmax(x=scores, axis=-1), transpose_y=True)
    return Value(y, tuple(y.shape), _HEADS)


def split_einsum(g: Lowering, node: Node, q: Value, k: Value, v: Value) -> Value:
    """Head by head, as Apple found it fastest on the Neural Engine (Deploying Transformers on the ANE, 2022).

    The einsums want keys as (B, S, 1, C): the one transpose in this form.
    """
    batch, heads, tokens, dim = q.shape

    def joined(x: Value) -> Value:
        back = transposed(x, [0, 2, 1, 3])
        return g.reshape(back, (x.shape[0], x.shape[2], heads * dim))

    keys = (0, 1, None, 2)
    qs = mb.split(x=_scaled(node, g.stored(joined(q), TOKENS)), num_splits=heads, axis=1)
    ks = mb.split(x=g.stored(joined(k), keys), num_splits=heads, axis=3)
    vs = mb.split(x=g.stored(joined(v), TOKENS), num_splits=heads, axis=1)
    outs = []
    for qi, ki, vi in zip(qs, ks, vs, strict=True):
        scores = mb.einsum(values=(ki, qi), equation="nchw,nwhu->nchu")  # (B, keys, 1, queries)
        outs.append(mb.einsum(values=(vi, mb.softmax(x=scores, axis=1)), equation="nchw,nwhu->nchu"))
    y = mb.concat(values=outs, axis=1)
    joint = Value(y, tuple(y.shape), TOKENS)
    return transposed(g.reshape(joint, (batch, tokens, heads, dim)), [0, 2, 1, 3])


def fused(g: Lowering, node: Node, q: Value, k: Value, v: Value) -> Value:
    """Core ML's own operation, from iOS 18; it wants channels last, and scales by itself."""
    order = (0, 1, 2, 3)
    x = g.stored(q, order)
    usual = q.shape[-1] ** -0.5
    if not np.isclose(node.attributes["scale"], usual):
        x = mb.mul(x=x, y=dtype_of(x).type(node.attributes["scale"] / usual))
    y = mb.scaled_dot_product_attention(query=x, key=g.stored(k, order), value=g.stored(v, order))
    return plain(y)


ATTENTIONS: dict[str, Op] = {"split-einsum": split_einsum, "original": original, "fused": fused}


def upsample(g: Lowering, node: Node, x: Value) -> Value:
    """Nearest neighbour, by two."""
    y = mb.upsample_nearest_neighbor(x=g.stored(x, IMAGE), scale_factor_height=2, scale_factor_width=2)
    return Value(y, tuple(y.shape), IMAGE)


def _activation(mil: Callable[..., Any], **how: Any) -> Op:
    def activate(g: Lowering, node: Node, x: Value) -> Value:
        return Value(mil(x=g.stored(x, x.order), **how), x.sizes, x.order)

    return activate


def table(attention: str) -> dict[str, Op]:
    """What emits each operation, attention in the form of that name."""
    form = ATTENTIONS[attention]

    def attend(g: Lowering, node: Node, *arrays: Value) -> Value:
        # Text is masked, and the VAE has one head: neither is worth cutting up.
        plainly = len(arrays) > 3 or arrays[0].shape[1] == 1
        y: Value = (original if plainly else form)(g, node, *arrays)
        return y

    return OPS | {"attention": attend}


OPS: dict[str, Op] = {
    "conv2d": conv2d,
    "linear": linear,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "upsample": upsample,
    "silu": _activation(mb.silu),
    "gelu": _activation(mb.gelu, mode="EXACT"),
    "quick_gelu": _activation(mb.gelu, mode="SIGMOID_APPROXIMATION"),
}
