"""Adapters for run time: what each adds beside a layer, by the formulas of merging, and the scales of its blocks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_sd.checkpoint.lora import Lora
from mlx_sd.checkpoint.model_folder import shapes
from mlx_sd.networks.beside import Dense, Difference, Kronecker, Pair

from . import block_weights
from .formulas import DORA, lora_pair
from .merge import Change, OpenAdapter, bias_difference, changes_of, layers_of, piece, records_of, weight_difference


class Addition(NamedTuple):
    """What one adapter does to one parameter."""

    adapter: int  # its number
    change: Change


class RuntimePlan:
    """The additions of several adapters to the networks of a model; made by `plan_runtime`."""

    def __init__(
        self,
        adapters: Sequence[OpenAdapter],
        unet: Sequence[str],
        additions: Mapping[tuple[str, str], Sequence[Addition]],
    ):
        self.loras = [lora for lora, _ in adapters]
        self.records, self.autov3 = records_of(adapters), tuple(adapter.autov3 for _, adapter in adapters)
        self._unet, self._additions = unet, additions

    def __iter__(self) -> Iterator[tuple[tuple[str, str], Sequence[Addition]]]:
        """Yields (network, parameter) with the additions to it."""
        return iter(self._additions.items())

    def scales(self, loras: Sequence[Lora]) -> Callable[[str, str], list[float]]:
        """Returns the function (network, layer) -> the scale of each adapter there, with its block weights."""
        factors = [block_weights.factors(lora, self._unet) for lora in loras]

        def of_layer(part: str, layer: str) -> list[float]:
            """Returns the scale of each adapter at a layer."""
            return [lora.scale * factor(part, layer) for lora, factor in zip(loras, factors, strict=True)]

        return of_layer

    def difference_of(
        self, change: Change, weight: Callable[[], mx.array], kernel: tuple[int, ...]
    ) -> Pair | Difference:
        """Returns what a change adds beside a layer: factors where it has a low rank, in float32.

        weight: reads the layer's weight in float32, channel-last, dequantized. kernel: () of a linear layer, or (h, w).
        """
        module, target = change.module, change.target
        assert module.kind is not None
        factors = {role: tensor.read().astype(mx.float32) for role, tensor in module.factors.items()}
        undecomposed = module.extras.keys().isdisjoint(DORA)
        if undecomposed and module.kind.name == "LoRA":
            down, up = lora_pair(factors)
            down = down.reshape(down.shape[0], -1, *kernel)
            if kernel:
                down = down.transpose(0, 2, 3, 1)
            return Pair(down, piece(up, target) * module.scaling)
        if undecomposed and not kernel and target.pieces == 1 and (pair := _kronecker(factors, module.scaling)):
            return pair
        return Dense(weight_difference(change, weight()))

    def merged(
        self, original: mx.array, additions: Sequence[Addition], scales: Sequence[float], bias: bool
    ) -> mx.array:
        """Returns a norm's parameter or a bias with its additions, in float32; its original where all scales are 0."""
        difference: Any = bias_difference if bias else weight_difference
        weight = original.astype(mx.float32)
        terms = [difference(a.change, weight) * scales[a.adapter] for a in additions if scales[a.adapter]]
        return original if not terms else (weight + sum(terms[1:], terms[0])).astype(original.dtype)


def plan_runtime(adapters: Sequence[OpenAdapter], networks: Mapping[str, nn.Module], strict: bool) -> RuntimePlan:
    """Returns what adapters add to networks, which are not quantized yet; errors and warnings as `plan_merge`."""
    layers, parameters = layers_of(networks), {part: shapes(network) for part, network in networks.items()}
    additions: dict[tuple[str, str], list[Addition]] = {}
    for number, (lora, adapter) in enumerate(adapters):
        for key, change in changes_of(lora, adapter, layers, parameters, strict):
            additions.setdefault(key, []).append(Addition(number, change._replace(scale=1.0)))
    return RuntimePlan(adapters, list(parameters["unet"]), additions)


def _kronecker(factors: Mapping[str, mx.array], scaling: float) -> Kronecker | None:
    """Returns LoKr's two matrices; None for other kinds, and where a kernel is among the factors."""
    if not any(role.startswith("lokr_") for role in factors) or "lokr_t2" in factors:
        return None

    def matrix(name: str) -> mx.array:
        """Returns a matrix, or the product of its own factors."""
        if name in factors:
            array = factors[name]
        else:
            right = factors[f"{name}_b"]
            array = factors[f"{name}_a"] @ right.reshape(right.shape[0], -1)
        return array.reshape(array.shape[0], -1)

    return Kronecker(matrix("lokr_w1") * scaling, matrix("lokr_w2"))
