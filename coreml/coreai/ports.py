"""The interface that Apple's Swift package coreai-models expects, where it is not that of its Core ML package."""

from dataclasses import replace

import mlx.core as mx

from ..lowering.interfaces import RESIDUAL, FunctionSpec, Port
from ..lowering.layout import ROWS

_NAMES = {"x": "image", "latent": "latent_params"}  # of the VAE's encoder


def interface(spec: FunctionSpec) -> FunctionSpec:
    """Returns a function with the ports of Core AI.

    Token ids are int32, the context is (B, tokens, channels), and residuals have the type of the UNet's inputs.
    """
    return replace(spec, inputs=tuple(map(_port, spec.inputs)), outputs=tuple(map(_port, spec.outputs)))


def _port(port: Port) -> Port:
    port = replace(port, name=_NAMES.get(port.name, port.name))
    if port.name == "input_ids":
        return replace(port, dtype=mx.int32)
    if port.name == "encoder_hidden_states":
        return replace(port, order=ROWS)
    if port.name.startswith(RESIDUAL):  # as the UNet takes them: nothing is converted between the two
        return replace(port, dtype=port.network_dtype)
    return port
