"""Merges adapters into a model's weights: W + the sum of scale times difference, in float32, one weight at a time."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_sd.checkpoint.lora import Lora
from mlx_sd.checkpoint.model_folder import shapes
from mlx_sd.core.embedded import LORAS, place
from mlx_sd.core.errors import InputError

from ..files import hub
from ..files.refusals import first
from . import adapter_file, block_weights, lora_folder
from .adapter_file import Adapter, Module
from .family import family, prompt_widths, width_names
from .formulas import BIASES, DORA, decomposed
from .layer_names import Target, spellings
from .peft_config import CONFIG_FILE, PARTS

OpenAdapter = tuple[Lora, Adapter]
Layers = Mapping[str, Mapping[str, list[Target]]]  # network -> a name in any spelling -> the layers it means
Shape = tuple[int, ...]


class Change(NamedTuple):
    """What one module does to one weight or bias."""

    module: Module
    scale: float
    target: Target


class Merge:
    """The changes that adapters make to each parameter; made by `plan_merge`. `records` go into model.json.

    autov3: of each adapter, the hash by which A1111 and Civitai know it.
    """

    def __init__(
        self,
        changes: Mapping[tuple[str, str], Sequence[Change]],
        records: list[dict[str, Any]],
        autov3: Sequence[str] = (),
    ):
        self._changes = changes
        self.records = records
        self.autov3 = tuple(autov3)

    def __call__(self, part: str, parameter: str, array: mx.array) -> mx.array:
        """Returns a parameter of network `part` (channel-last, as in a model folder) with its changes, in float32.

        A parameter without changes is returned as it is. All differences are taken from the original weight, so the
        order of adapters does not matter. The CPU computes it: GPUs may round products of float32 to fewer bits.
        """
        changes = self._changes.get((part, parameter))
        if not changes:
            return array
        with mx.stream(mx.cpu):
            weight = array.astype(mx.float32)
            difference = bias_difference if parameter.endswith(".bias") else weight_difference
            total = sum((difference(change, weight) for change in changes), mx.zeros_like(weight))
            return weight + total


def open_adapters(loras: Iterable[Lora], folder: str | os.PathLike[str] | None = None) -> list[OpenAdapter]:
    """Finds and opens adapters; raises the InputErrors of `locate` and `adapter_file.read`.

    folder: in which those are looked for that are given by name; None is that of MLX_SD_LORAS. Their paths become those
    of the files.
    """
    opened, home = [], lora_folder.lora_folder(folder)
    for lora in loras:
        path = locate(lora.path, folder)
        named = home is not None and not Path(lora.path).expanduser().exists() and path.is_relative_to(home)
        opened.append((lora._replace(path=str(path.absolute())) if named else lora, adapter_file.read(path)))
    return opened


def plan_merge(adapters: Sequence[OpenAdapter], networks: Mapping[str, nn.Module], strict: bool = False) -> Merge:
    """Returns what each module of the adapters changes in `networks`, by the names of the parts.

    Warns of modules that are of no layer. Raises InputError where none is of any layer or, with `strict`, one is not;
    for an adapter of another family; and for modules that do not fit their layer's shape.
    """
    changes: dict[tuple[str, str], list[tuple[str, Change]]] = {}
    if adapters:
        layers = layers_of(networks)
        parameters = {part: shapes(network) for part, network in networks.items()}
        for lora, adapter in adapters:
            for key, change in changes_of(lora, adapter, layers, parameters, strict):
                if change.scale:  # 0 is the identity, to the bit
                    changes.setdefault(key, []).append((adapter.sha256, change))
    return Merge(
        # Sorted, because the last bit of a sum of three depends on the order.
        {key: [c for _, c in sorted(several, key=lambda s: (s[0], s[1].scale))] for key, several in changes.items()},
        records_of(adapters),
        [adapter.autov3 for _, adapter in adapters],
    )


def records_of(adapters: Sequence[OpenAdapter]) -> list[dict[str, Any]]:
    """Returns path, sha256, scale and block weights of each adapter, as model.json and metadata have them."""
    return [lora._replace(sha256=adapter.sha256).to_record() for lora, adapter in adapters]


def layers_of(networks: Mapping[str, nn.Module]) -> Layers:
    """Returns what the names of adapters mean in a model, network by network."""
    return {part: spellings(part, network) for part, network in networks.items() if part in PARTS}


def locate(path: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Returns the file or folder that `path` means.

    That is a LoRA of this package, a local path, a name in the folder of LoRAs (see `lora_folder`), or an adapter on
    the hub (owner/name[/file]).
    """
    local = place(path, LORAS)
    if local.exists():
        return local
    home = lora_folder.lora_folder(folder)
    if home is not None and (file := lora_folder.find(path, home)):
        return file
    if on_hub(path):
        return _download("/".join(path.split("/")[:2]), "/".join(path.split("/")[2:]))
    raise lora_folder.absent(path, home)


def on_hub(path: str) -> bool:
    """Returns whether a path has the form of an adapter on the hub: owner/name or owner/name/file.safetensors."""
    repository, file = "/".join(path.split("/")[:2]), "/".join(path.split("/")[2:])
    # folder/file.safetensors has the form of an id, too
    return hub.is_id(repository) and path.endswith(".safetensors") == bool(file)


def unmatched(adapter: Adapter, layers: Layers) -> list[str]:
    """Returns the names of the modules that belong to no layer of the model."""
    return [module.name for module in adapter.modules if not _targets(module, layers)]


def _download(repository: str, file: str) -> Path:
    def select(files: list[str]) -> list[str]:
        """Picks the adapter's file and its config."""
        return [file or adapter_file.choose(files, repository), CONFIG_FILE]

    folder, selected = hub.download(repository, select)
    return folder / (selected[0] if selected else file)  # without a connection perhaps the folder alone


def changes_of(
    lora: Lora, adapter: Adapter, layers: Layers, parameters: Mapping[str, Mapping[str, Shape]], strict: bool
) -> Iterator[tuple[tuple[str, str], Change]]:
    """Yields (network, parameter) and what a module of an adapter does to it; errors and warnings as `plan_merge`.

    parameters: the shapes of each network's, channel-last.
    """
    model_widths = {shape[1] for name, shape in parameters["unet"].items() if name.endswith("attn2.k.weight")}
    adapter_widths = prompt_widths(adapter)
    if adapter_widths and model_widths and not adapter_widths & model_widths:
        raise InputError(f"LoRA {lora.path} is for {family(adapter)}, this model is {width_names(model_widths)}")
    if strangers := unmatched(adapter, layers):
        _report(lora, adapter, strangers, strict)
    factor = block_weights.factors(lora, parameters["unet"])
    modules: dict[Target, str] = {}
    problems: list[str] = []
    for module in adapter.modules:
        for target in _targets(module, layers):
            if target in modules:
                raise InputError(f"LoRA {lora.path}: {modules[target]} and {module.name} are of the same layer")
            modules[target] = module.name
            weight, bias = f"{target.layer}.weight", f"{target.layer}.bias"
            shape = parameters[target.part]
            problems += _misfits(module, target, shape.get(weight), shape.get(bias))
            change = Change(module, lora.scale * factor(target.part, target.layer), target)
            if module.kind:
                yield (target.part, weight), change
            if not module.extras.keys().isdisjoint(BIASES):
                yield (target.part, bias), change
    if problems:
        raise InputError(f"LoRA {lora.path} does not fit this model: {'; '.join(problems)}")


def _report(lora: Lora, adapter: Adapter, strangers: Sequence[str], strict: bool) -> None:
    """Warns of modules of no layer; InputError where that is all of them, or `strict`."""
    origin = f" (it is for {family(adapter)})" if family(adapter) else ""
    total, names = len(adapter.modules), first(strangers, 20 if strict else 3)
    if len(strangers) == total:
        raise InputError(
            f"LoRA {lora.path}{origin}: none of its {total} modules is of a layer of this model: {names}; convert "
            "--inspect FILE says what it is"
        )
    if strict:
        raise InputError(
            f"LoRA {lora.path}{origin}: {len(strangers)} of its {total} modules are of no layer of this model: {names}"
        )
    warnings.warn(
        f"LoRA {lora.path}{origin}: {total - len(strangers)} of its {total} modules fit this model, others are left "
        f"out: {names} (--lora-strict makes that an error)",
        stacklevel=2,
    )


def _targets(module: Module, layers: Layers) -> list[Target]:
    """The layers a module is for; none, too, where it may be of several networks and its name does not say of which."""
    parts = [module.part] if module.part else list(layers)
    matches = [layers[part][module.layer] for part in parts if module.layer in layers.get(part, {})]
    return matches[0] if len(matches) == 1 else []


def _misfits(module: Module, target: Target, weight: Shape | None, bias: Shape | None) -> Iterator[str]:
    """Descriptions of tensors of a module that have not the shape of its layer (weight: channel-last)."""
    if weight is None:
        yield f"{module.name} has no weight to change"
        return
    outputs = weight[0] * target.pieces
    expected = (outputs, weight[-1], *weight[1:-1]) if len(weight) > 1 else (outputs,)
    if module.shape is not None and not _fits(module.shape, expected):
        yield f"{module.name} is {module.shape}, its layer {expected}"
    for role, tensor in module.extras.items():
        if role in BIASES:
            if bias is None:
                yield f"{module.name} has {role}, its layer no bias"
            elif tensor.shape != (outputs,):
                yield f"{module.name} has {role} {tensor.shape}, its layer's bias is {(outputs,)}"
        elif len(weight) == 1 or _axis(role, tensor.shape, expected) is None:
            yield f"{module.name} has {role} {tensor.shape}, its layer is {expected}"
        elif target.pieces > 1 and _axis(role, tensor.shape, expected) == 1:
            yield f"{module.name} has {role} over inputs of several projections in one"


def _fits(shape: Shape, expected: Shape) -> bool:
    """Whether a difference of this shape fits a layer, (out, in, h, w) or (out, in)."""

    def flat(shape: Shape) -> Shape:
        """Drops the axes of a kernel of size one."""
        return shape[:2] if set(shape[2:]) <= {1} else shape

    kernel = len(flat(expected)) == 4
    rows = (expected[0], expected[1] * expected[2] * expected[3]) if kernel else None
    return flat(shape) == flat(expected) or shape == rows


def _axis(role: str, shape: Shape, expected: Shape) -> int | None:
    """The axis of (out, in, ...) that DoRA's magnitudes of this shape lie along; PEFT's are always the outputs'."""
    sides = [axis for axis, size in enumerate(shape) if size > 1] or [0]
    count = shape[sides[0]] if shape else 1
    if len(sides) > 1:
        return None
    if role == "magnitude" or len(shape) == 1 or (sides[0] == 0 and count == expected[0]):
        return 0 if count == expected[0] else None
    return 1 if sides[0] == 1 and count == expected[1] else None


def weight_difference(change: Change, weight: mx.array) -> mx.array:
    """Returns what `change` adds to a weight (channel-last), in float32."""
    module, target = change.module, change.target
    assert module.kind is not None
    factors = {role: tensor.read().astype(mx.float32) for role, tensor in module.factors.items()}
    delta = piece(module.kind.delta(factors), target)
    if weight.ndim == 4:
        o, h, w, i = weight.shape
        delta = delta.reshape(o, i, h, w).transpose(0, 2, 3, 1)
    else:
        delta = delta.reshape(weight.shape)
    delta = delta * module.scaling
    for role in module.extras.keys() & set(DORA):
        tensor = module.extras[role]
        o, i = weight.shape[0] * target.pieces, weight.shape[-1]
        axis = _axis(role, tensor.shape, (o, i))
        magnitude = tensor.read().astype(mx.float32).reshape(-1)
        if axis == 0:
            delta = decomposed(weight + delta, piece(magnitude, target), 0) - weight
        else:
            delta = decomposed(weight + delta, magnitude, -1) - weight
    return delta * change.scale


def bias_difference(change: Change, bias: mx.array) -> mx.array:
    """Returns what `change` adds to a bias, in float32; a LoRA's own bias has the LoRA's scaling, a difference none."""
    module = change.module
    total = mx.zeros_like(bias)
    for role, factor in zip(BIASES, (1.0, module.scaling), strict=True):
        if role in module.extras:
            total = total + piece(module.extras[role].read().astype(mx.float32), change.target) * factor
    return total * change.scale


def piece(array: mx.array, target: Target) -> mx.array:
    """Returns the rows of an array that are a target's, where one module is for several layers."""
    return mx.split(array, target.pieces)[target.piece] if target.pieces > 1 else array
