"""The tensors written in the place of a linear layer's weight that is quantized."""

from collections.abc import Callable, Iterable, Iterator

import mlx.core as mx
import mlx.nn as nn

from mlx_sd.networks import quantization
from mlx_sd.networks.quantization import Quantization

from ..files.safetensors_stream import Entry


def quantized(entries: Iterable[Entry], network: nn.Module, settings: Quantization) -> Iterator[Entry]:
    """Replaces each weight that is quantized by three entries: codes, scales and offsets.

    The numbers that an entry reads are quantized before any cast: with adapters, the float32 sum.
    """
    weights = {f"{name}.weight": name for name in quantization.quantizable_layers(network, settings)}
    for entry in entries:
        if entry.name in weights:
            yield from _split(entry, weights[entry.name], settings)
        else:
            yield entry


def _split(entry: Entry, layer: str, settings: Quantization) -> Iterator[Entry]:
    outputs, inputs = entry.shape
    arrays: dict[str, mx.array] = {}  # computed when the first of the three is read, kept until the last

    def reader(role: str) -> Callable[[], mx.array]:
        """Returns the function that reads one of the three arrays."""

        def read() -> mx.array:
            """Quantizes the weight at the first call and returns the array of this role."""
            if not arrays:
                arrays.update(quantization.quantize_weight(entry.read().reshape(entry.shape), settings, entry.dtype))
            return arrays.pop(role)

        return read

    yield Entry(entry.name, (outputs, inputs * settings.bits // 32), mx.uint32, reader("weight"))
    for role in ("scales", "biases"):
        yield Entry(f"{layer}.{role}", (outputs, inputs // settings.group), entry.dtype, reader(role))
