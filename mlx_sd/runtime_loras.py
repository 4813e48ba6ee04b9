"""LoRAs beside a model's layers at run time: attached once, scaled as often as wanted, also on quantized layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .checkpoint.lora import Lora
from .core.errors import InputError
from .networks.beside import Beside, Difference, Pair
from .networks.layers import Conv, Linear, QuantizedLinear

_Key = tuple[str, str]  # network and layer, or parameter


class RuntimeLoras:
    """The adapters that stand beside the layers of a model's networks."""

    def __init__(self, networks: Mapping[str, nn.Module], plan: Any, dtype: mx.Dtype):
        """Attaches the adapters of a plan of `convert.adapters.runtime` with their own scales.

        dtype: of the factors.
        """
        self._plan = plan
        self._beside: dict[_Key, tuple[nn.Module, Beside]] = {}
        self._parameters: dict[_Key, tuple[nn.Module, mx.array, Sequence[Any]]] = {}
        modules = {part: dict(network.named_modules()) for part, network in networks.items()}
        for (part, parameter), additions in plan:
            name, _, kind = parameter.rpartition(".")
            layer = modules[part][name]
            if kind == "bias" or not isinstance(layer, (Linear, QuantizedLinear, Conv)):
                self._parameters[part, parameter] = layer, layer[kind], additions
                continue
            pairs: list[tuple[int, Pair]] = []
            others: list[tuple[int, Difference]] = []
            for addition in additions:
                kernel = tuple(layer.weight.shape[1:3]) if isinstance(layer, Conv) else ()
                difference = plan.difference_of(addition.change, lambda layer=layer: _weight(layer), kernel)
                cast: Any = type(difference)(*(array.astype(dtype) for array in difference))
                (pairs if isinstance(cast, Pair) else others).append((addition.adapter, cast))
            self._beside[part, name] = layer, Beside(pairs, others)
        self.scale(plan.loras)

    @property
    def records(self) -> tuple[dict[str, Any], ...]:
        """Returns path, sha256, scale and block weights of each adapter, as metadata have them."""
        changed = zip(self._plan.records, self._loras, strict=True)
        return tuple(
            lora._replace(path=record["path"], sha256=record["sha256"]).to_record() for record, lora in changed
        )

    @property
    def hashes(self) -> tuple[str, ...]:
        """Returns the hash of each adapter by which A1111 and Civitai know it."""
        hashes: tuple[str, ...] = self._plan.autov3
        return hashes

    def scale(self, loras: Sequence[Lora]) -> None:
        """Takes scale and block weights of each adapter; one whose scales are all 0 leaves a layer bit for bit alone.

        InputError where there are not as many as adapters, or not as many block weights as blocks.
        """
        if len(loras) != len(self._plan.loras):
            raise InputError(f"there are {len(self._plan.loras)} LoRAs, and scales for {len(loras)}; give one for each")
        of_layer = self._plan.scales(loras)
        for (part, name), (layer, beside) in self._beside.items():
            layer.beside = beside if beside.scale(of_layer(part, name)) else None
        self._loras = tuple(loras)
        self.restore()

    def restore(self) -> None:
        """Puts what they make of norms and biases back where a layer has its own weights again."""
        of_layer = self._plan.scales(self._loras)
        for (part, parameter), (layer, original, additions) in self._parameters.items():
            name, _, kind = parameter.rpartition(".")
            layer[kind] = self._plan.merged(original, additions, of_layer(part, name), kind == "bias")
            mx.eval(layer[kind])


def _weight(layer: nn.Module) -> mx.array:
    """Returns a layer's weight in float32, dequantized."""
    if isinstance(layer, QuantizedLinear):
        codes, scales, offsets = layer.weight, layer.scales, layer.biases
        return mx.dequantize(codes, scales, offsets, group_size=layer.group, bits=layer.bits).astype(mx.float32)
    weight: mx.array = layer.weight.astype(mx.float32)
    return weight
