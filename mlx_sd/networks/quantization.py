"""Linear layers in 4 or 8 bits: which of a network's, how, and what it saves."""

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

_DEFAULT = "unet"  # the largest by far; text encoders bear it worse
_SMALL = 2048  # numbers: below that there is nothing to gain
_FORM = re.compile(r"(?:(?P<part>\w+)=)?(?P<bits>\d{1,3})(?::(?P<group>\d{1,3}))?")


class Quantization(NamedTuple):
    """Codes of `bits` bits; each run of `group` inputs has a scale and an offset of its own."""

    bits: int
    group: int = 64


def parse(text: str) -> dict[str, Quantization]:
    """Reads what `--quantize` takes, "4", "8:32" or "unet=4,text_encoder=8:32", as network -> how."""
    found: dict[str, Quantization] = {}
    for word in text.split(","):
        match = _FORM.fullmatch(word.strip())
        if match is None:
            raise InputError(f"--quantize takes BITS[:GROUP] or NETWORK=BITS[:GROUP],..., not {text!r}")
        how = Quantization(int(match["bits"]), int(match["group"] or 64))
        if how.bits not in BITS or how.group not in GROUPS:
            raise InputError(f"--quantize {word}: there are {_or(BITS)} bits, in groups of {_or(GROUPS)}")
        if match["part"] and match["part"] not in PARTS:
            raise InputError(f"--quantize {word}: no network is called {match['part']}; there are {', '.join(PARTS)}")
        part = match["part"] or _DEFAULT
        if part in found:
            raise InputError(f"--quantize {text}: {part} is there twice")
        found[part] = how
    return found


def chosen(text: str | None, networks: Mapping[str, nn.Module]) -> dict[str, Quantization]:
    """`parse` for a model, which must have the networks."""
    found = parse(text) if text else {}
    for part in found.keys() - networks.keys():
        raise InputError(f"--quantize {text}: this model has no {part}, only {', '.join(networks)}")
    return found


def stored(about: Any, where: str) -> dict[str, Quantization]:
    """What a model.json says of its networks; InputError where it makes no sense."""
    try:
        found = {part: Quantization(**how) for part, how in (about or {}).items()}
    except (TypeError, AttributeError):
        found = {"": Quantization(0)}
    if any(how.bits not in BITS or how.group not in GROUPS for how in found.values()):
        raise InputError(f"{where}: quantization = {about!r} makes no sense; convert the checkpoint again")
    return found


def layers(network: nn.Module, how: Quantization) -> dict[str, Linear]:
    """The linear layers that can be quantized so, by name: those whose inputs divide into groups, save small ones."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if type(layer) is Linear and layer.weight.shape[1] % how.group == 0 and layer.weight.size >= _SMALL
    }


def prepare(network: nn.Module, how: Quantization) -> None:
    """Puts quantized layers, their codes not yet there, in the place of those linear ones that can be."""
    put: list[tuple[str, nn.Module]] = []
    for name, layer in layers(network, how).items():
        outputs, inputs = layer.weight.shape
        put.append((name, QuantizedLinear(inputs, outputs, "bias" in layer, how.bits, how.group)))
    network.update_modules(tree_unflatten(put))


def quantize(weight: mx.array, how: Quantization, dtype: mx.Dtype) -> dict[str, mx.array]:
    """A weight (out, in) as a quantized layer has it: codes packed in words of 32 bits, scales and offsets in `dtype`.

    Computed in float32, by the CPU, whatever the device: a model folder is the same wherever it is made.
    """
    with mx.stream(mx.cpu):
        codes, scales, offsets = mx.quantize(weight.astype(mx.float32), group_size=how.group, bits=how.bits)
        found = {"weight": codes, "scales": scales.astype(dtype), "biases": offsets.astype(dtype)}
        mx.eval(found)
    return found


def convert(network: nn.Module, how: Quantization) -> None:
    """Quantizes a loaded network in place, one layer at a time."""
    weights = {name: (layer.weight, layer.get("bias")) for name, layer in layers(network, how).items()}
    prepare(network, how)
    modules = dict(network.named_modules())
    for name in list(weights):
        weight, bias = weights.pop(name)
        found = quantize(weight, how, weight.dtype)
        modules[name].load_weights(list((found | ({} if bias is None else {"bias": bias})).items()))


def report(part: str, network: nn.Module, how: Quantization, size: int) -> str:
    """One line on what quantizing does to a network whose numbers take `size` bytes each without."""
    parameters: Any = tree_flatten(network.parameters())
    total = sum(array.size for _, array in parameters)
    taken = sum(layer.weight.size for layer in layers(network, how).values())
    after = taken * how.bits / 8 + 2 * size * taken / how.group
    return (
        f"{part}: {taken * size / 1e6:.1f} MB of linear layers become {after / 1e6:.1f} MB, {how.bits} bits in groups "
        f"of {how.group}; {(total - taken) * size / 1e6:.1f} MB stay (convolutions, norms, small layers, and those "
        f"whose inputs do not divide by {how.group})"
    )


def _or(values: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"
