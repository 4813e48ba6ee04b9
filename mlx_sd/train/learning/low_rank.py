"""Low-rank adapters (LoRA, Hu et al. 2021) that are learned beside the layers of networks.

    y = layer(x)  +  alpha / rank * up(down(x))

`down` begins random and `up` with zeros, so at first nothing changes. Both are float32 whatever the network's dtype: a
step of training is smaller than half precision can add.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ...core.errors import InputError
from ...networks import ops
from ...networks.beside import Apply
from ...networks.blocks import Transformer
from ...networks.clip import TextEncoder
from ...networks.layers import Attention, Conv, Linear, QuantizedLinear

# What --targets names: layers of attentions alone, all of transformers, or these and all convolutions.
TARGETS = ("attention", "transformers", "all")

Layer = Linear | QuantizedLinear | Conv


class LayerName(NamedTuple):
    """A layer of a model: the network's name, as Model has it, and the path of the layer in it."""

    network: str
    path: str

    @property
    def key(self) -> str:
        """Returns a name without dots, which separate the names in paths of parameters."""
        return "/".join((self.network, *self.path.split(".")))


class LowRank(nn.Module):
    """The adapter of one layer."""

    def __init__(self, layer: Layer, rank: int, alpha: float, key: mx.array):
        """key: of the random numbers of `down`, uniform within 1 / sqrt(inputs)."""
        super().__init__()
        shape = _shape(layer)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.down = mx.random.uniform(-bound, bound, (rank, *shape[1:]), key=key)
        self.up = mx.zeros((shape[0], rank))
        self.alpha = alpha

    @property
    def rank(self) -> int:
        """Returns the number of rows of `down`."""
        rank: int = self.down.shape[0]
        return rank

    def added(self, x: mx.array, apply: Apply) -> mx.array:
        """Returns what is added to the layer's output for x; apply: the layer's own product with another weight."""
        low = apply(x, self.down.astype(x.dtype))
        return ops.linear(low, (self.up * (self.alpha / self.rank)).astype(x.dtype))


class Adapters(nn.Module):
    """The adapters of all layers that are trained; its parameters are what is learned."""

    def __init__(self, layers: Mapping[LayerName, Layer], rank: int, alpha: float, seed: int):
        """Makes an adapter for each layer, and puts it beside the layer; alpha / rank is the scale of all of them."""
        super().__init__()
        self.layers = {}
        for number, (name, layer) in enumerate(layers.items()):
            outputs, *inputs = _shape(layer)
            most = min(rank, outputs, math.prod(inputs))  # more would be the same differences of the weight
            adapter = LowRank(layer, most, alpha * most / rank, mx.random.key((seed << 20) + number))
            self.layers[name.key] = adapter
            layer.beside = adapter.added  # type: ignore[assignment]
        self._layers = dict(layers)

    @property
    def by_layer(self) -> dict[LayerName, LowRank]:
        """Returns the adapters by the names of their layers."""
        return {name: self.layers[name.key] for name in self._layers}

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Takes the adapters away from their layers while it is open; the network is then the base."""
        self.remove()
        try:
            yield
        finally:
            for name, layer in self._layers.items():
                layer.beside = self.layers[name.key].added  # type: ignore[assignment]

    def remove(self) -> None:
        """Takes the adapters away from their layers, which are then what they were."""
        for layer in self._layers.values():
            layer.beside = None


def layers_of(name: str, network: nn.Module, targets: str) -> dict[LayerName, Layer]:
    """Returns the layers of a network that adapters of `targets` stand beside; InputError for an unknown word."""
    if targets not in TARGETS:
        raise InputError(f"targets must be one of {', '.join(TARGETS)}, not {targets!r}")
    if isinstance(network, TextEncoder):
        inside: Sequence[nn.Module] = network.layers
        convolutions = False
    else:
        convolutions = targets == "all"
        inside = [network] if convolutions else [m for _, m in network.named_modules() if isinstance(m, Transformer)]
    if targets == "attention":
        inside = [m for module in inside for _, m in module.named_modules() if isinstance(m, Attention)]
    numbers = {id(layer) for module in inside for layer in _layers(module)}
    return {
        LayerName(name, path): layer
        for path, layer in sorted(network.named_modules())
        if id(layer) in numbers and isinstance(layer, (Linear, QuantizedLinear, Conv)) and _learns(path)
    }


def layers_below(name: str, network: nn.Module, beginnings: tuple[str, ...]) -> dict[LayerName, Layer]:
    """Returns all linear layers and convolutions of a network whose paths have one of these beginnings."""
    return {
        LayerName(name, path): layer
        for path, layer in sorted(network.named_modules())
        if isinstance(layer, (Linear, QuantizedLinear, Conv)) and path.startswith(beginnings)
    }


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    return (layer for _, layer in module.named_modules())


def _learns(path: str) -> bool:
    """Whether other programs load adapters of this layer: not those of the first and the last convolution."""
    return path not in ("conv", "down.stages.0.0") and not path.startswith("embedding.")


def _shape(layer: Layer) -> tuple[int, ...]:
    """Returns the shape of a layer's weight: (outputs, inputs), or (outputs, h, w, inputs) of a convolution."""
    if isinstance(layer, QuantizedLinear):
        return layer.weight.shape[0], layer.scales.shape[1] * layer.group
    return tuple(layer.weight.shape)
