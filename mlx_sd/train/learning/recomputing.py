"""Gradient checkpointing (Chen et al. 2016): a layer's inner results are computed again for its gradient, not kept.

It is done for whole residual blocks and transformers. Around single operations it costs memory instead of saving it.
MLX takes the steps of a graph in an order of its own; here each block waits for the gradient that it starts from, and
hands its own on when it has those of its parameters. So there is never more than one block's inner results.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from ...networks import gradients
from ...networks.blocks import Conditioning, ResBlock, RunLayer, Transformer, run_layer
from .low_rank import Adapters, LowRank

BLOCKS = (ResBlock, Transformer)
Tree = Any  # of arrays


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
        if not isinstance(layer, BLOCKS):
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
        return _checkpoint(inner, [module.trainable_parameters() for module in learned], x, vectors)

    return run


def _checkpoint(function: Callable[..., mx.array], parameters: Tree, x: mx.array, others: Tree) -> mx.array:
    """Returns function(parameters, x, others), of which nothing inside is kept for gradients."""
    trees = [parameters, x, others]
    arrays, number = _leaves(trees), len(_leaves(parameters))

    def flat(*arrays: mx.array) -> mx.array:
        """Calls the function with its arrays in a row."""
        following = iter(arrays)
        return function(*tree_map(lambda _: next(following), trees))

    def gradient(primals: Sequence[mx.array], cotangent: mx.array, _: mx.array) -> tuple[mx.array, ...]:
        """Runs the function again, once its cotangent is there, and returns the gradients of its arrays."""
        again: Any = mx.depends(list(primals), [cotangent])
        results = gradients.vjp(flat, again, cotangent)
        of_parameters, of_x, of_others = results[:number], results[number], results[number + 1 :]
        if of_parameters:
            (of_x,) = mx.depends([of_x], list(of_parameters))
        return (*of_parameters, of_x, *of_others)

    return gradients.call(flat, gradient, *arrays)


def _leaves(tree: Tree) -> list[mx.array]:
    flat: Any = tree_flatten(tree)
    return [array for _, array in flat]


def _adapters_of_blocks(
    networks: Mapping[str, nn.Module], adapters: Adapters
) -> Iterable[tuple[nn.Module, list[LowRank]]]:
    for network_name, network in networks.items():
        for path, module in network.named_modules():
            if isinstance(module, BLOCKS):
                inside = [
                    adapter
                    for name, adapter in adapters.by_layer.items()
                    if name.network == network_name and name.path.startswith(f"{path}.")
                ]
                if inside:
                    yield module, inside
