"""Quantization of linear layers to 4 or 8 bits: the option's form, the layers that qualify, and their weights."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..core.errors import InputError
from .layers import Linear, QuantizedLinear

BITS, GROUPS = (4, 8), (32, 64, 128)
PARTS = ("unet", "text_encoder", "text_encoder_2", "vae")

_DEFAULT = "unet"  # the largest network by far; text encoders lose more quality
_SMALL = 2048  # weights with fewer numbers than this save nothing worth having
_FORM = re.compile(r"(?:(?P<part>\w+)=)?(?P<bits>\d{1,3})(?::(?P<group>\d{1,3}))?")


class Quantization(NamedTuple):
    """Weights as codes of `bits` bits; each run of `group` inputs has a scale and an offset of its own."""

    bits: int
    group: int = 64

    @property
    def supported(self) -> bool:
        """Returns whether MLX has these bits and groups."""
        return self.bits in BITS and self.group in GROUPS


def parse(text: str) -> dict[str, Quantization]:
    """Parses the value of `--quantize`, "4", "8:32" or "unet=4,text_encoder=8:32", into network -> quantization.

    InputError for a value that cannot be read, bits or groups that MLX has not, or a network of no such name.
    """
    schemes: dict[str, Quantization] = {}
    for word in text.split(","):
        match = _FORM.fullmatch(word.strip())
        if match is None:
            raise InputError(f"--quantize takes BITS[:GROUP] or NETWORK=BITS[:GROUP],..., not {text!r}")
        scheme = Quantization(int(match["bits"]), int(match["group"] or 64))
        if not scheme.supported:
            raise InputError(f"--quantize {word}: there are {_or(BITS)} bits, in groups of {_or(GROUPS)}")
        if match["part"] and match["part"] not in PARTS:
            raise InputError(f"--quantize {word}: no network is called {match['part']}; there are {', '.join(PARTS)}")
        part = match["part"] or _DEFAULT
        if part in schemes:
            raise InputError(f"--quantize {text}: {part} is there twice")
        schemes[part] = scheme
    return schemes


def parse_for(networks: Mapping[str, nn.Module], text: str | None) -> dict[str, Quantization]:
    """Parses the value of `--quantize` for a model; InputError for a network that the model does not have."""
    schemes = parse(text) if text else {}
    for part in schemes.keys() - networks.keys():
        raise InputError(f"--quantize {text}: this model has no {part}, only {', '.join(networks)}")
    return schemes


def from_record(record: Any, where: str) -> dict[str, Quantization]:
    """Reads the field `quantization` of a model.json as network -> quantization; InputError for a damaged one."""
    try:
        schemes = {part: Quantization(**values) for part, values in (record or {}).items()}
        damaged = not all(scheme.supported for scheme in schemes.values())
    except (TypeError, AttributeError):
        damaged = True
    if damaged:
        raise InputError(f"{where}: quantization = {record!r} makes no sense; convert the checkpoint again")
    return schemes


def quantizable_layers(network: nn.Module, scheme: Quantization) -> dict[str, Linear]:
    """Returns the linear layers to quantize, by name: those whose inputs divide into groups, except small ones."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if type(layer) is Linear and layer.weight.shape[1] % scheme.group == 0 and layer.weight.size >= _SMALL
    }


def replace_layers(network: nn.Module, scheme: Quantization) -> None:
    """Replaces the quantizable layers of a network by quantized ones whose weights are still to be loaded."""
    replacements: list[tuple[str, nn.Module]] = []
    for name, layer in quantizable_layers(network, scheme).items():
        outputs, inputs = layer.weight.shape
        replacements.append((name, QuantizedLinear(inputs, outputs, "bias" in layer, scheme.bits, scheme.group)))
    network.update_modules(tree_unflatten(replacements))


def quantize_weight(weight: mx.array, scheme: Quantization, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Quantizes a weight (out, in) into the parameters of a `QuantizedLinear`, scales and offsets in `dtype`.

    Computed in float32 by the CPU, whatever the device: a model folder is the same wherever it is made.
    """
    with mx.stream(mx.cpu):
        codes, scales, offsets = mx.quantize(weight.astype(mx.float32), group_size=scheme.group, bits=scheme.bits)
        parameters = {"weight": codes, "scales": scales.astype(dtype), "biases": offsets.astype(dtype)}
        mx.eval(parameters)
    return parameters


def quantize_network(network: nn.Module, scheme: Quantization) -> None:
    """Quantizes a loaded network in place, one layer at a time."""
    weights = {name: (layer.weight, layer.get("bias")) for name, layer in quantizable_layers(network, scheme).items()}
    replace_layers(network, scheme)
    modules = dict(network.named_modules())
    for name in list(weights):
        weight, bias = weights.pop(name)
        parameters = quantize_weight(weight, scheme, weight.dtype)
        modules[name].load_weights([*parameters.items(), *([] if bias is None else [("bias", bias)])])


def describe(part: str, network: nn.Module, scheme: Quantization, size: int) -> str:
    """Returns one line on the bytes that quantizing saves in a network whose numbers take `size` bytes each."""
    parameters: Any = tree_flatten(network.parameters())
    total = sum(array.size for _, array in parameters)
    quantized = sum(layer.weight.size for layer in quantizable_layers(network, scheme).values())
    after = quantized * scheme.bits / 8 + 2 * size * quantized / scheme.group
    return (
        f"{part}: {quantized * size / 1e6:.1f} MB of linear layers become {after / 1e6:.1f} MB, {scheme.bits} bits in "
        f"groups of {scheme.group}; {(total - quantized) * size / 1e6:.1f} MB stay (convolutions, norms, small layers, "
        f"and those whose inputs do not divide by {scheme.group})"
    )


def _or(values: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"
