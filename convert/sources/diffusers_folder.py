"""A diffusers folder -> its configs and tensors by name; no tensor is read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor, check_inside, read_json, tensors

from ..files import folder_kinds
from ..files.diffusers_names import current_name
from ..files.refusals import check_dtypes, first, is_pickle, pickle_error
from .checkpoint import PARTS, SCHEDULERS, TOKENIZERS, VQ, Checkpoint, Component, Vocabulary, names_of
from .unsupported_pipelines import problem

STEMS = ("diffusion_pytorch_model", "model")


def read(folder: Path, variant: str | None = None) -> Checkpoint:
    """Opens a diffusers folder; with `variant` ("fp16"), its files of that variant where there are any.

    Raises InputError for anything missing, pickled, damaged, or pointing out of the folder.
    """
    if not (folder / "model_index.json").is_file():
        if folder.exists():
            raise InputError(f"{folder} {folder_kinds.sentence(folder)}")
        raise InputError(
            f"{folder} does not exist; mlx-sd models lists what is here, and a hub id is OWNER/NAME, as "
            "stabilityai/stable-diffusion-2-1"
        )
    index = read_json(check_inside(folder, folder / "model_index.json"))
    if reason := problem(index, [name for name in (*PARTS, VQ) if _listed(index, name)]):
        raise InputError(f"{folder}/model_index.json: {reason}")
    places = {part: folder / name for part in PARTS for name in names_of(part) if _listed(index, name)}
    tokenizers = [name for name in TOKENIZERS if _listed(index, name)]
    schedulers = [name for name in SCHEDULERS if name == "scheduler" or _listed(index, name)]
    places |= {name: folder / name for name in (*tokenizers, *schedulers)}
    if (folder / "scheduler_config.json").is_file() and not (folder / "scheduler").is_dir():  # as the first were saved
        places |= {"unet": folder, "scheduler": folder}
    for name, place in places.items():
        if not place.is_dir():
            raise InputError(f"{place} is missing, though model_index.json lists it; download the {name} too")
        for file in (place, *place.glob("*")):
            check_inside(folder, file)
    configs = {name: read_json(places[name] / "scheduler_config.json") for name in schedulers}
    return Checkpoint(
        folder,
        index,
        configs["scheduler"],
        {part: component(places[part], variant) for part in PARTS if part in places},
        {name: Vocabulary(_subfolder(folder, name)) for name in tokenizers},
        configs.get("low_res_scheduler"),
    )


def infixes(variant: str | None) -> tuple[str, ...]:
    """Returns what may stand before the suffix of weights, best first: the variant, nothing, half precision."""
    return tuple(dict.fromkeys([f".{variant}" if variant else "", "", ".fp16"]))


def component(folder: Path, variant: str | None = None) -> Component:
    """Opens one network in its folder, config.json beside the weights."""
    config = read_json(folder / "config.json")
    files = _weights(folder, variant)
    by_name = _by_current_name(tensor for file in files for tensor in tensors(file))
    check_dtypes(by_name.values())
    return Component(config, by_name, files)


def _by_current_name(stored: Iterable[Tensor]) -> dict[str, Tensor]:
    by_name: dict[str, Tensor] = {}
    for tensor in stored:
        name = current_name(tensor.name)
        if name is None:
            continue
        if name in by_name:
            raise InputError(f"{tensor.file}: {tensor.name} is there twice (also in {by_name[name].file.name})")
        by_name[name] = tensor
    return by_name


def _weights(folder: Path, variant: str | None) -> tuple[Path, ...]:
    # The variant goes before the last dot: x.fp16.safetensors, x.safetensors.index.fp16.json.
    for infix in infixes(variant):
        for stem in STEMS:
            index, file = folder / f"{stem}.safetensors.index{infix}.json", folder / f"{stem}{infix}.safetensors"
            if index.is_file():
                return _shards(index)
            if file.is_file():
                return (file,)
    if pickles := sorted(p.name for p in folder.glob("*") if is_pickle(p.name)):
        raise pickle_error(folder, pickles)
    others = sorted(p.name for p in folder.glob("*.safetensors"))
    hint = f" (there is {first(others)})" if others else ""
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
