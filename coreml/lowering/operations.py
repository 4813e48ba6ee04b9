"""Rules for the operations of `mlx_sd.networks.ops`, in the form that Apple's Neural Engine runs best.

Images are (B, C, H, W), tokens (B, C, 1, S); linears are 1x1 convolutions; nothing has more than four axes. `MATRICES`
has the form for GPUs in its place: tokens (B, S, C), and linears that are products of matrices.
"""

from typing import Any

import numpy as np

from mlx_sd.networks.graph import Node

from . import attention
from .layout import IMAGE, ROWS, TOKENS, Order, Value, plain
from .lower import Lowering, Rule


def conv2d(lowering: Lowering, node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """Emits a convolution of an image (B, H, W, in); weights (out, kh, kw, in) become (out, in, kh, kw)."""
    stride, padding = node.attributes["stride"], node.attributes["padding"]
    image, zeros = lowering.unpadded(lowering.stored(x, IMAGE))
    y = lowering.emit.conv(
        x=image,
        weight=lowering.weight(weight, np.ascontiguousarray(lowering.array(weight).transpose(0, 3, 1, 2))),
        strides=[stride] * 2,
        pad_type="custom",
        pad=[count + padding for count in zeros],
        **_bias(lowering, bias),
    )
    return Value(y, tuple(y.shape), IMAGE)


def linear(lowering: Lowering, node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """Emits x W^T + b with weights (out, in): a 1x1 convolution of tokens (B, S, in), `linear` of vectors (B, in)."""
    if len(x.shape) == 2:
        return matrix_linear(lowering, node, x, weight, bias)
    w = lowering.array(weight)
    y = lowering.emit.conv(
        x=lowering.stored(x, TOKENS), weight=lowering.weight(weight, w[:, :, None, None]), **_bias(lowering, bias)
    )
    return Value(y, tuple(y.shape), TOKENS)


def matrix_linear(lowering: Lowering, node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """Emits x W^T + b with weights (out, in) as a product of matrices, of tokens (B, S, in) or vectors (B, in)."""
    w = lowering.array(weight)
    rows = lowering.stored(x, tuple(range(len(x.shape))))
    return plain(lowering.emit.linear(x=rows, weight=lowering.weight(weight, w), **_bias(lowering, bias)))


def _bias(lowering: Lowering, bias: Value | None) -> dict[str, Any]:
    return {} if bias is None else {"bias": lowering.array(bias)}


def group_norm(lowering: Lowering, node: Node, x: Value, weight: Value, bias: Value) -> Value:
    """Emits a layer norm over each group's numbers, then the scale and offset of each channel.

    (B, groups, C / groups * H, W) is a free view of rank four, and has no axis longer than the Neural Engine takes.
    """
    emit, image = lowering.emit, lowering.stored(x, IMAGE)
    batch, channels, height, width = image.shape
    groups = node.attributes["groups"]
    y = emit.reshape(x=image, shape=[batch, groups, channels // groups * height, width])
    y = emit.layer_norm(x=y, axes=[2, 3], epsilon=_epsilon(lowering, node, image))
    y = emit.reshape(x=y, shape=[batch, channels, height, width])
    scale, offset = (lowering.stored(lowering.reshape(v, (1, 1, 1, channels)), IMAGE) for v in (weight, bias))
    y = emit.add(x=emit.mul(x=y, y=scale), y=offset)
    return Value(y, tuple(y.shape), IMAGE)


def layer_norm(lowering: Lowering, node: Node, x: Value, weight: Value, bias: Value) -> Value:
    """Emits a layer norm of tokens (B, S, C) over their channels."""
    return _layer_norm(lowering, node, x, weight, bias, TOKENS)


def rows_layer_norm(lowering: Lowering, node: Node, x: Value, weight: Value, bias: Value) -> Value:
    """Emits a layer norm of tokens (B, S, C), stored as they are, over their last axis."""
    return _layer_norm(lowering, node, x, weight, bias, ROWS)


def _layer_norm(lowering: Lowering, node: Node, x: Value, weight: Value, bias: Value, order: Order) -> Value:
    tokens = lowering.stored(x, order)
    y = lowering.emit.layer_norm(
        x=tokens,
        axes=[order.index(2)],
        gamma=lowering.stored(weight, (0,)),
        beta=lowering.stored(bias, (0,)),
        epsilon=_epsilon(lowering, node, tokens),
    )
    return Value(y, tuple(y.shape), order)


def _epsilon(lowering: Lowering, node: Node, x: Any) -> Any:
    return lowering.dtype_of(x).type(node.attributes["eps"])


def upsample(lowering: Lowering, node: Node, x: Value) -> Value:
    """Emits nearest-neighbour upsampling of an image by two along height and width."""
    y = lowering.emit.upsample_nearest_neighbor(
        x=lowering.stored(x, IMAGE), scale_factor_height=2, scale_factor_width=2
    )
    return Value(y, tuple(y.shape), IMAGE)


def image_mean(lowering: Lowering, node: Node, x: Value) -> Value:
    """Emits the means of an image (B, H, W, C) over height and width."""
    y = lowering.emit.reduce_mean(x=lowering.stored(x, IMAGE), axes=[2, 3], keep_dims=True)
    return Value(y, tuple(y.shape), IMAGE)


def _activation(operation: str, **parameters: Any) -> Rule:
    """Returns the rule that emits an elementwise operation of that name, in whatever order its input is stored."""

    def activation(lowering: Lowering, node: Node, x: Value) -> Value:
        """Emits the operation elementwise."""
        y = getattr(lowering.emit, operation)(x=lowering.stored(x, x.order), **parameters)
        return Value(y, x.sizes, x.order)

    return activation


def rules(form: str) -> dict[str, Rule]:
    """Returns the rule of each operation, with attention in the form of that name in `attention.ATTENTIONS`."""
    return RULES | {"attention": attention.rule(form)}


RULES: dict[str, Rule] = {
    "conv2d": conv2d,
    "linear": linear,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "upsample": upsample,
    "image_mean": image_mean,
    "relu": _activation("relu"),
    "silu": _activation("silu"),
    "gelu": _activation("gelu", mode="EXACT"),
    "quick_gelu": _activation("gelu", mode="SIGMOID_APPROXIMATION"),
}

# In the place of the rules of the same names: tokens stay (B, S, C), as GPUs multiply matrices.
MATRICES: dict[str, Rule] = {"linear": matrix_linear, "layer_norm": rows_layer_norm}
