"""Networks with compressed weights: which parameters are compressed, and networks that compute with the result."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_sd.networks.layers import Conv, Linear

from .schemes import SMALLEST, Compressor


def weights_of(network: nn.Module) -> dict[str, mx.array]:
    """Returns the weights that a compression is for, by name: those of convolutions and linear layers, large enough."""
    layers = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, Conv | Linear)}
    flat: Any = tree_flatten(network.parameters())
    return {name: array for name, array in flat if name in layers and array.size >= SMALLEST}


def compress(network: nn.Module, compressor: Compressor, dtype: mx.Dtype = mx.float16) -> int:
    """Puts into a network the numbers that packages with compressed weights compute with; returns their bytes.

    dtype: of the weights in the packages. The network keeps its own dtype. Weights that the compressor leaves alone
    stay as they are and count in `dtype`.
    """
    total, replaced = 0, []
    for name, array in weights_of(network).items():
        weight = outputs_first(np.array(array.astype(dtype)))
        constant = compressor(name, weight)
        total += array.size * dtype.size if constant is None else constant.bytes
        if constant is not None:
            dense = constant.dense()
            dense = dense.transpose(0, 2, 3, 1) if dense.ndim == 4 else dense
            replaced.append((name, mx.array(np.ascontiguousarray(dense)).astype(array.dtype)))
    network.update(tree_unflatten(replaced))
    mx.eval(network.parameters())
    return total


def outputs_first(weight: np.ndarray) -> np.ndarray:
    """Returns a weight in the order of descriptions: (outputs, height, width, inputs) of networks has inputs second."""
    return np.ascontiguousarray(weight.transpose(0, 3, 1, 2)) if weight.ndim == 4 else weight
