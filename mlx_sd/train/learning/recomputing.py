"""Gradient checkpointing (Chen et al. 2016): a layer's inner results are computed again for its gradient, not kept.

It is done for whole residual blocks and transformers. Around single operations it costs memory instead of saving it.
"""

from collections.abc import Iterable, Mapping

import mlx.core as mx
import mlx.nn as nn

from ...networks.blocks import Conditioning, ResBlock, RunLayer, Transformer, run_layer
from .low_rank import Adapters, LowRank

_LARGE = (ResBlock, Transformer)


def recomputing(networks: Mapping[str, nn.Module], adapters: Adapters | None = None) -> RunLayer:
    """Returns how networks run their layers, so that gradients of their trainable parameters need less memory.

    adapters: of low rank beside their layers, which are learned too.
    """
    beside: dict[int, list[LowRank]] = {}
    if adapters is not None:
        for block, inside in _adapters_of_blocks(networks, adapters):
            beside[id(block)] = inside

    def run(layer: nn.Module, x: mx.array, conditioning: Conditioning) -> mx.array:
        """Runs a layer, and forgets what its gradient can compute again."""
        if not isinstance(layer, _LARGE):
            return run_layer(layer, x, conditioning)
        learned: list[nn.Module] = [layer, *beside.get(id(layer), [])]

        def inner(parameters: list[dict[str, mx.array]], x: mx.array, vectors: dict[str, mx.array]) -> mx.array:
            """Runs the layer with parameters in the place of its own."""
            before = [module.trainable_parameters() for module in learned]
            for module, values in zip(learned, parameters, strict=True):
                module.update(values)
            changed = conditioning._replace(embedding=vectors["embedding"], context=vectors.get("context"))
            y = run_layer(layer, x, changed)
            for module, values in zip(learned, before, strict=True):
                module.update(values)
            return y

        vectors = {"embedding": conditioning.embedding}
        if conditioning.context is not None:
            vectors["context"] = conditioning.context
        y: mx.array = mx.checkpoint(inner)([module.trainable_parameters() for module in learned], x, vectors)
        return y

    return run


def _adapters_of_blocks(
    networks: Mapping[str, nn.Module], adapters: Adapters
) -> Iterable[tuple[nn.Module, list[LowRank]]]:
    for network_name, network in networks.items():
        for path, module in network.named_modules():
            if isinstance(module, _LARGE):
                inside = [
                    adapter
                    for name, adapter in adapters.by_layer.items()
                    if name.network == network_name and name.path.startswith(f"{path}.")
                ]
                if inside:
                    yield module, inside
