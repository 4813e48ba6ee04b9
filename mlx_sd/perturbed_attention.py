"""Perturbed-attention guidance (Ahn et al. 2024): away from what the network makes without its self-attention.

Each picture gets one more row, with the prompt, in which the self-attention of the UNet's middle is the identity: its
output is that of the values alone, out(v(x)). The difference to the row with ordinary attention is added, scaled.
"""

from collections.abc import Iterator

import mlx.core as mx

from .core.errors import InputError
from .networks.blocks import Attend, Transformer
from .networks.layers import Attention
from .networks.unet import UNet


class PerturbedAttention:
    """Applies attention layers so that the last rows of a batch are perturbed in the UNet's middle."""

    def __init__(self, unet: UNet, scale: float, adaptive: float = 0.0):
        """scale, adaptive: see `scale_at`. InputError for a UNet without self-attention in its middle."""
        self._scale, self._adaptive = scale, adaptive
        self._layers = {id(layer) for layer in _middle(unet)}
        if not self._layers:
            raise InputError("this UNet has no self-attention in its middle, which --pag perturbs; leave it out")

    def apply(self, attend: Attend, rows: int) -> Attend:
        """Returns what computes an attention; rows: so many last ones are perturbed; attend: for the others."""

        def perturbed(layer: Attention, x: mx.array, context: mx.array) -> mx.array:
            """Returns the layer's output, the last rows' without attention where the layer is one of the middle's."""
            if id(layer) not in self._layers:
                return attend(layer, x, context)
            away = layer.out(layer.v(x[-rows:]))
            if x.shape[0] == rows:  # the others are computed elsewhere
                return away
            ordinary = x[:-rows]
            return mx.concatenate([attend(layer, ordinary, ordinary), away])

        return perturbed

    def scale_at(self, timestep: float) -> float:
        """Returns the scale at a timestep: it falls by `adaptive` for each timestep below 1000, to 0 (diffusers)."""
        return max(0.0, self._scale - self._adaptive * (1000 - timestep))


def _middle(unet: UNet) -> Iterator[Attention]:
    """Yields the self-attention layers of a UNet's middle."""
    for layer in unet.middle.layers:
        if isinstance(layer, Transformer):
            yield from (block.attn1 for block in layer.blocks if not block.only_cross)
