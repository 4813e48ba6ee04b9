"""What is written in the place of a linear layer's weight when it is quantized."""

from collections.abc import Callable, Iterable, Iterator

import mlx.core as mx
import mlx.nn as nn

from mlx_sd.networks import quantization
from mlx_sd.networks.quantization import Quantization

from ..files.safetensors_stream import Entry


def quantized(entries: Iterable[Entry], network: nn.Module, how: Quantization) -> Iterator[Entry]:
    """The entries of a network with each weight that is quantized as three: codes, scales and offsets.

    Quantized is what an entry reads, before it is cast: with adapters, the float32 sum.
    """
    weights = {f"{name}.weight": name for name in quantization.quantizable_layers(network, how)}
    for entry in entries:
        if entry.name in weights:
            yield from _split(entry, weights[entry.name], how)
        else:
            yield entry


def _split(entry: Entry, layer: str, how: Quantization) -> Iterator[Entry]:
    outputs, inputs = entry.shape
    made: dict[str, mx.array] = {}  # by the first of the three that is read, kept until the last

    def reader(role: str) -> Callable[[], mx.array]:
        def read() -> mx.array:
            if not made:
                made.update(quantization.quantize_weight(entry.read().reshape(entry.shape), how, entry.dtype))
            return made.pop(role)

        return read

    yield Entry(entry.name, (outputs, inputs * how.bits // 32), mx.uint32, reader("weight"))
    for role in ("scales", "biases"):
        yield Entry(f"{layer}.{role}", (outputs, inputs // how.group), entry.dtype, reader(role))
