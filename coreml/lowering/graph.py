"""Records the function of a package as a graph, in which whole operations stand beside MLX's primitives."""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_sd.checkpoint.model_folder import shapes
from mlx_sd.networks.graph import Graph, trace

from .interfaces import FunctionSpec


def record(spec: FunctionSpec, network: nn.Module) -> Graph:
    """Records the graph of a package's function; the network's own weights do not matter and are lost."""
    parameters = {name: mx.zeros(shape, spec.weights) for name, shape in shapes(network).items()}

    def call(*inputs: mx.array, **parameters: mx.array) -> tuple[mx.array, ...]:
        """Calls the function with the parameters as arguments, so that the trace keeps their names."""
        network.update(tree_unflatten(list(parameters.items())))
        return spec.call(network, *inputs)

    return trace(call, [mx.zeros(port.shape, port.network_dtype) for port in spec.inputs], parameters)
