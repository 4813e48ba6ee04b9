"""Recorded graphs of full-size UNets, without weights; each recorded once."""

from functools import cache

import mlx.core as mx
import mlx.nn as nn

from bench.models import UNETS
from coreml.lowering.graph import record
from coreml.lowering.interfaces import UNetFunctions
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.networks.graph import Graph


def full_size(name: str) -> tuple[UNetFunctions, nn.Module]:
    """Returns the functions of a UNet of `bench.models` at its own size for guidance, and the network."""
    network = build("unet", UNETS[name], name)
    side = UNETS[name]["sample_size"]
    return UNetFunctions(network.config, 77, 1280, side, side, 2, mx.float16, 1), network


@cache
def full_size_graph(name: str) -> Graph:
    """Returns the graph of the whole UNet."""
    functions, network = full_size(name)
    return record(functions.full(), network)
