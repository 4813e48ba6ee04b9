"""A diffusers folder -> its configs and tensors, by name, nothing read before it is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_sd.errors import InputError
from mlx_sd.files import TENSOR_DTYPES, Tensor, read_json, tensors

from . import names

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
TOKENIZERS = ("tokenizer", "tokenizer_2")

STEMS = ("diffusion_pytorch_model", "model")
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


@dataclass(frozen=True)
class Component:
    """One network: its config, its tensors under today's names, and the files that hold them."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint in a folder."""

    folder: Path
    index: dict[str, Any]  # model_index.json
    scheduler: dict[str, Any]
    components: dict[str, Component]
    tokenizers: dict[str, Path]


def read(folder: Path, variant: str | None = None) -> Checkpoint:
    """Opens a diffusers folder; with `variant` ("fp16"), its files of that variant where there are any.

    Raises InputError for anything missing, pickled, damaged, or pointing out of the folder.
    """
    if not (folder / "model_index.json").is_file():
        raise InputError(_no_index(folder))
    index = read_json(folder / "model_index.json")
    present = [part for part in PARTS if _listed(index, part)]
    for part in ("unet", "vae"):
        if part not in present:
            raise InputError(f"{folder}/model_index.json: no {part}, so this is not a Stable Diffusion checkpoint")
    return Checkpoint(
        folder,
        index,
        read_json(folder / "scheduler" / "scheduler_config.json"),
        {part: _component(folder / part, variant) for part in present},
        {name: _subfolder(folder, name) for name in TOKENIZERS if _listed(index, name)},
    )


def infixes(variant: str | None) -> tuple[str, ...]:
    """What may stand before the suffix of weights, best first: the variant asked for, none, half precision."""
    return tuple(dict.fromkeys([f".{variant}" if variant else "", "", ".fp16"]))


def _component(folder: Path, variant: str | None) -> Component:
    config = read_json(folder / "config.json")
    files = _weights(folder, variant)
    found: dict[str, Tensor] = {}
    for file in files:
        for tensor in tensors(file):
            name = names.today(tensor.name)
            if name is None:
                continue
            if tensor.dtype not in TENSOR_DTYPES:
                raise InputError(
                    f"{file}: {tensor.name} is of type {tensor.dtype}; only {', '.join(TENSOR_DTYPES)} are read"
                )
            if name in found:
                raise InputError(f"{file}: {tensor.name} is there twice (also in {found[name].file.name})")
            found[name] = tensor
    return Component(config, found, files)


def _weights(folder: Path, variant: str | None) -> tuple[Path, ...]:
    # The variant goes before the last dot: x.fp16.safetensors, x.safetensors.index.fp16.json.
    for infix in infixes(variant):
        for stem in STEMS:
            index, whole = folder / f"{stem}.safetensors.index{infix}.json", folder / f"{stem}{infix}.safetensors"
            if index.is_file():
                return _shards(index)
            if whole.is_file():
                return (whole,)
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"{folder} has only pickled weights ({', '.join(pickles)}), which can run code when opened; get the "
            "safetensors version, or convert it in a sandbox with safetensors' convert.py"
        )
    others = sorted(p.name for p in folder.glob("*.safetensors"))
    hint = f" (there is {', '.join(others)})" if others else ""
    raise InputError(f"{folder}: no {STEMS[0]}.safetensors or {STEMS[1]}.safetensors{hint}")


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: no weight_map")
    shards = sorted({str(name) for name in weight_map.values()})
    for name in shards:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index}: {name!r} is not the name of a safetensors file in this folder")
        if not (index.parent / name).is_file():
            raise InputError(f"{index.parent / name} is missing, though {index.name} lists it")
    return tuple(index.parent / name for name in shards)


def _listed(index: dict[str, Any], part: str) -> bool:
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def _subfolder(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise InputError(f"{folder / name} is missing, though model_index.json lists it")
    return folder / name


def _no_index(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist"
    if (folder / "model.json").is_file():
        return f"{folder} is converted already"
    if folder.is_file():
        pickled = any(folder.match(pattern) for pattern in _PICKLES)
        why = "is a pickle, which can run code when opened" if pickled else "is a file"
        return f"{folder} {why}; give a diffusers folder (with model_index.json) or a converted one (with model.json)"
    return f"{folder} has neither model_index.json (diffusers) nor model.json (converted)"
