"""Adapters written into a model's weights: W + sum of scale times difference, in float32, one weight at a time."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_sd.checkpoint.lora import Lora
from mlx_sd.checkpoint.model_folder import shapes
from mlx_sd.core.errors import InputError

from ..files import hub
from . import adapter_file, block_weights
from .adapter_file import Adapter, Module
from .formulas import decomposed
from .layer_names import Target, spellings

# How wide the prompt is that attention looks at -> what has such a prompt.
FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}
_CROSS = re.compile(r"attn2[._]to_(k|v|kv)$")
_ELSEWHERE = (
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks"), "Flux"),
    (re.compile(r"joint_blocks|lora_te3_"), "Stable Diffusion 3"),
    (re.compile(r"lora_prior_"), "Stable Cascade"),
    (
        re.compile(r"^(lora_)?transformer[._](?!resblocks|text_model)|diffusion_model\.layers\."),
        "a diffusion transformer",
    ),
)

OpenAdapter = tuple[Lora, Adapter]
Layers = Mapping[str, Mapping[str, list[Target]]]  # network -> name, in any spelling -> what it means


class _Change(NamedTuple):
    """What one module does to one weight or bias."""

    module: Module
    scale: float
    target: Target


class Merge:
    """What is to be added to which parameter; made by `plan_merge`. `records` say what was merged, for model.json."""

    def __init__(self, changes: Mapping[tuple[str, str], Sequence[_Change]], records: list[dict[str, Any]]):
        self._changes = changes
        self.records = records

    def __call__(self, part: str, parameter: str, array: mx.array) -> mx.array:
        """A parameter of network `part` (channel-last, as in a model folder) with what is added to it, in float32.

        One that nothing is added to comes back as it is. Differences are all taken from the weight as it came, so the
        order of adapters does not matter. The work is the CPU's: GPUs may round products of float32 to fewer bits.
        """
        changes = self._changes.get((part, parameter))
        if not changes:
            return array
        with mx.stream(mx.cpu):
            weight = array.astype(mx.float32)
            add = _bias if parameter.endswith(".bias") else _difference
            total = sum((add(change, weight) for change in changes), mx.zeros_like(weight))
            merged = weight + total
            mx.eval(merged)
        return merged


def open_adapters(loras: Iterable[Lora]) -> list[OpenAdapter]:
    """Finds and opens adapters; raises InputError for what `locate` and `adapter_file.read` refuse."""
    return [(lora, adapter_file.read(locate(lora.path))) for lora in loras]


def plan_merge(found: Sequence[OpenAdapter], networks: Mapping[str, nn.Module]) -> Merge:
    """What each module of adapters changes in `networks`, by the names of the parts.

    Raises InputError for an adapter of another family, and for modules that fit no layer by name or by shape; all are
    listed.
    """
    changes: dict[tuple[str, str], list[tuple[str, _Change]]] = {}
    if found:
        layers = layers_of(networks)
        sizes = {part: shapes(network) for part, network in networks.items()}
        for lora, held in found:
            for parameter, change in _changes(lora, held, layers, sizes):
                if change.scale:  # 0 is the identity, to the bit
                    changes.setdefault(parameter, []).append((held.sha256, change))
    return Merge(
        # In an order of their own: sums of three do depend on it in the last bit.
        {key: [c for _, c in sorted(many, key=lambda m: (m[0], m[1].scale))] for key, many in changes.items()},
        [
            {"path": lora.path, "sha256": held.sha256, "scale": lora.scale}
            | ({"blocks": list(lora.blocks)} if lora.blocks else {})
            for lora, held in found
        ],
    )


def layers_of(networks: Mapping[str, nn.Module]) -> Layers:
    """What the names of adapters mean in a model."""
    return {part: spellings(part, network) for part, network in networks.items() if part in adapter_file.PARTS}


def locate(path: str) -> Path:
    """The file or folder that `path` means: itself, or an adapter on the hub (owner/name or owner/name/file)."""
    here = Path(path).expanduser()
    if here.exists():
        return here
    repository, file = "/".join(path.split("/")[:2]), "/".join(path.split("/")[2:])
    # folder/file.safetensors has the form of an id, too
    if hub.is_id(repository) and path.endswith(".safetensors") == bool(file):
        return _download(repository, file)
    raise InputError(f"LoRA {path} does not exist")


def _download(repository: str, file: str) -> Path:
    def select(files: list[str]) -> list[str]:
        return [file or adapter_file.choose(files, repository), adapter_file.CONFIG]

    folder, selected = hub.download(repository, select)
    return folder / (selected[0] if selected else file)  # without a connection perhaps the folder alone


def family(held: Adapter) -> str | None:
    """What an adapter was made for, as far as it tells."""
    for module in held.modules:
        for pattern, name in _ELSEWHERE:
            if pattern.search(module.name):
                return name
    widths = _widths(held)
    if widths:
        return named(widths)
    return "SDXL" if any(module.part == "text_encoder_2" for module in held.modules) else None


def unmatched(held: Adapter, layers: Layers) -> list[str]:
    """The modules that no layer is found for."""
    return [module.name for module in held.modules if not _targets(module, layers)]


def _changes(
    lora: Lora,
    held: Adapter,
    layers: Layers,
    sizes: Mapping[str, Mapping[str, tuple[int, ...]]],
) -> Iterator[tuple[tuple[str, str], _Change]]:
    ours = {size[1] for name, size in sizes["unet"].items() if name.endswith("attn2.k.weight")}
    theirs = _widths(held)
    if theirs and ours and not theirs & ours:
        raise InputError(f"LoRA {lora.path} is for {family(held)}, this model is {named(ours)}")
    if strangers := unmatched(held, layers):
        whose = f" (it is for {family(held)})" if family(held) else ""
        raise InputError(
            f"LoRA {lora.path}{whose}: {len(strangers)} of its {len(held.modules)} modules are of no layer of this "
            f"model: {adapter_file.some(strangers, 20)}"
        )
    factor = block_weights.factors(lora, sizes["unet"])
    taken: dict[Target, str] = {}
    wrong: list[str] = []
    for module in held.modules:
        for target in _targets(module, layers):
            if target in taken:
                raise InputError(f"LoRA {lora.path}: {taken[target]} and {module.name} are of the same layer")
            taken[target] = module.name
            weight, bias = f"{target.layer}.weight", f"{target.layer}.bias"
            wrong += _misfits(module, target, sizes[target.part].get(weight), sizes[target.part].get(bias))
            change = _Change(module, lora.scale * factor(target.part, target.layer), target)
            if module.kind:
                yield (target.part, weight), change
            if not module.beside.keys().isdisjoint(("diff_b", "bias")):
                yield (target.part, bias), change
    if wrong:
        raise InputError(f"LoRA {lora.path} does not fit this model: {'; '.join(wrong)}")


def _targets(module: Module, layers: Layers) -> list[Target]:
    """The layers a module is for; none, too, where it may be of several networks and nothing says of which."""
    parts = [module.part] if module.part else list(layers)
    found = [layers[part][module.layer] for part in parts if module.layer in layers.get(part, {})]
    return found[0] if len(found) == 1 else []


def named(widths: set[int]) -> str:
    """The families with prompts so wide."""
    return " or ".join(FAMILIES.get(width, f"a model with prompts {width} wide") for width in sorted(widths))


def _widths(held: Adapter) -> set[int]:
    shapes = [module.shape for module in held.modules if _CROSS.search(module.layer)]
    return {shape[1] for shape in shapes if shape}


def _misfits(
    module: Module, target: Target, weight: tuple[int, ...] | None, bias: tuple[int, ...] | None
) -> Iterator[str]:
    """What of a module has not the shape of its layer (channel-last), if anything."""
    if weight is None:
        yield f"{module.name} has no weight to change"
        return
    outputs = weight[0] * target.pieces
    wanted = (outputs, weight[-1], *weight[1:-1]) if len(weight) > 1 else (outputs,)
    have = module.shape
    if have is not None and not _fits(have, wanted):
        yield f"{module.name} is {have}, its layer {wanted}"
    for role, tensor in module.beside.items():
        if role in ("diff_b", "bias"):
            if bias is None:
                yield f"{module.name} has {role}, its layer no bias"
            elif tensor.shape != (outputs,):
                yield f"{module.name} has {role} {tensor.shape}, its layer's bias is {(outputs,)}"
        elif len(weight) == 1 or _axis(role, tensor.shape, wanted) is None:
            yield f"{module.name} has {role} {tensor.shape}, its layer is {wanted}"
        elif target.pieces > 1 and _axis(role, tensor.shape, wanted) == 1:
            yield f"{module.name} has {role} over inputs of several projections in one"


def _fits(have: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    def flat(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:2] if set(shape[2:]) <= {1} else shape

    kernel = len(flat(wanted)) == 4
    rows = (wanted[0], wanted[1] * wanted[2] * wanted[3]) if kernel else None
    return flat(have) == flat(wanted) or have == rows


def _axis(role: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> int | None:
    """Along which axis of (out, in, ...) DoRA's magnitudes lie, by their shape; PEFT's are always the outputs'."""
    sides = [axis for axis, size in enumerate(shape) if size > 1] or [0]
    count = shape[sides[0]] if shape else 1
    if len(sides) > 1:
        return None
    if role == "magnitude" or len(shape) == 1 or (sides[0] == 0 and count == wanted[0]):
        return 0 if count == wanted[0] else None
    return 1 if sides[0] == 1 and count == wanted[1] else None


def _difference(change: _Change, weight: mx.array) -> mx.array:
    """What `change` adds to a weight (channel-last), in float32."""
    module, target = change.module, change.target
    assert module.kind is not None
    factors = {role: tensor.read().astype(mx.float32) for role, tensor in module.factors.items()}
    delta = _piece(module.kind.delta(factors), target)
    if weight.ndim == 4:
        o, h, w, i = weight.shape
        delta = delta.reshape(o, i, h, w).transpose(0, 2, 3, 1)
    else:
        delta = delta.reshape(weight.shape)
    delta = delta * module.scaling
    for role in module.beside.keys() & {"dora_scale", "magnitude"}:
        tensor = module.beside[role]
        o, i = weight.shape[0] * target.pieces, weight.shape[-1]
        axis = _axis(role, tensor.shape, (o, i))
        magnitude = tensor.read().astype(mx.float32).reshape(-1)
        if axis == 0:
            delta = decomposed(weight + delta, _piece(magnitude, target), 0) - weight
        else:
            delta = decomposed(weight + delta, magnitude, -1) - weight
    return delta * change.scale


def _bias(change: _Change, bias: mx.array) -> mx.array:
    module = change.module
    total = mx.zeros_like(bias)
    for role, factor in (("diff_b", 1.0), ("bias", module.scaling)):
        if role in module.beside:
            total = total + _piece(module.beside[role].read().astype(mx.float32), change.target) * factor
    return total * change.scale


def _piece(array: mx.array, target: Target) -> mx.array:
    return mx.split(array, target.pieces)[target.piece] if target.pieces > 1 else array
