"""Describes a safetensors file in a few lines: its kind, and of an adapter its modules and what was recorded of it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlx.nn import Module as Network

from mlx_sd.checkpoint.lora import Lora
from mlx_sd.core.embedded import LORAS, place
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor, metadata, tensors

from .adapters import adapter_file, lora_folder, merge
from .adapters.adapter_file import Adapter, Module
from .adapters.family import family, width_names
from .adapters.formulas import DORA
from .files import folder_kinds
from .files.file_kinds import recognise

# Keys that trainers write into the metadata -> the words for them in the description.
_TRAINING = {
    "modelspec.title": "title",
    "modelspec.architecture": "architecture",
    "ss_base_model_version": "base model",
    "ss_sd_model_name": "trained on",
    "ss_network_module": "trainer's module",
    "ss_network_args": "its arguments",
    "ss_network_dim": "rank asked for",
    "ss_network_alpha": "alpha asked for",
    "ss_resolution": "resolution",
    "ss_steps": "steps",
    "modelspec.trigger_phrase": "trigger",
    "ss_training_comment": "comment",
}
_WORDS, _LONGEST = 12, 200  # frequent words that are listed, characters of a value


def describe(path: str, model: str | None = None, networks: Mapping[str, Network] | None = None) -> Iterator[str]:
    """Yields lines that describe a safetensors file; with a model's networks, also whether it can be merged into them.

    path: also a folder or a hub id, as for `--lora`. model: the name of the model in the lines. Raises InputError for a
    file that cannot be read.
    """
    place = _place(path)
    file = place / adapter_file.choose(sorted(p.name for p in place.iterdir()), path) if place.is_dir() else place
    stored = list(tensors(file))
    kind = recognise(tensor.name for tensor in stored)
    embedding = kind is not None and kind.adapter and kind.foreign  # no adapter of the networks' layers
    if not embedding and any(adapter_file.is_part(tensor.name) for tensor in stored):
        adapter = adapter_file.read(file)
        yield from _adapter(adapter)
        if networks is not None:
            yield from (f"  of no layer: {name}" for name in merge.unmatched(adapter, merge.layers_of(networks)))
            try:
                merge.plan_merge(merge.open_adapters([Lora(str(file))]), networks, strict=True)
            except InputError as error:
                yield f"  does not fit {model}: {error}"
            else:
                yield f"  fits {model}"
    else:
        yield from _other(file, stored)


def _place(path: str) -> Path:
    """Returns the file or folder that is meant; InputError for folders that hold no single safetensors file."""
    local = place(path, LORAS)
    home = lora_folder.lora_folder()
    if not local.exists() and not merge.on_hub(path) and not (home and lora_folder.find(path, home)):
        raise InputError(f"{path} does not exist; --inspect describes a safetensors file")
    location = merge.locate(path)
    if not location.is_dir():
        return location
    if (location / "model.json").is_file():
        raise InputError(f"{location} is a converted folder; --verify {location} checks it")
    if (location / "model_index.json").is_file():
        raise InputError(f"{location} is a diffusers folder; --inspect describes one of its .safetensors files")
    if not any(location.glob("*.safetensors")):
        raise InputError(f"{location} {folder_kinds.sentence(location)} (--inspect describes a safetensors file)")
    return location


def _adapter(adapter: Adapter) -> Iterator[str]:
    kinds = Counter(_kind(module) for module in adapter.modules)
    stored = [t for module in adapter.modules for t in (*module.factors.values(), *module.extras.values())]
    yield (
        f"{adapter.file}: {' and '.join(kind for kind, _ in kinds.most_common())} "
        f"for {family(adapter) or 'a family it does not tell'}, {_size(stored)}"
    )
    for part, modules in _by_part(adapter).items():
        ranks, alphas = {m.rank for m in modules}, {m.alpha for m in modules}
        scalings = _range("scaled by", {m.scaling for m in modules})
        yield f"  {part}: {len(modules)} modules, {_range('rank', ranks)}, {_range('alpha', alphas)}, {scalings}"
    yield from _metadata(adapter.metadata)
    yield f"  sha256: {adapter.sha256}"


def _other(file: Path, stored: list[Tensor]) -> Iterator[str]:
    """Lines for a file that is no adapter."""
    kind = recognise(tensor.name for tensor in stored)
    title = kind.title if kind else "of no kind known here"
    widths = {t.shape[1] for t in stored if t.name.endswith("attn2.to_k.weight")}
    model = f" for {width_names(widths)}" if widths else ""
    yield f"{file}: {title}{model}, {len(stored)} tensors, {_size(stored)}"
    if kind and kind.advice:
        yield f"  as --model: it {kind.sentence}"
    yield from _metadata(metadata(file))


def _kind(module: Module) -> str:
    name = module.kind.name if module.kind else "bias"
    return f"DoRA ({name})" if not module.extras.keys().isdisjoint(DORA) else name


def _by_part(adapter: Adapter) -> dict[str, list[Module]]:
    modules: dict[str, list[Module]] = {}
    for module in adapter.modules:
        modules.setdefault(module.part or "network not named", []).append(module)
    return dict(sorted(modules.items()))


def _range(name: str, values: set[float | None] | set[int | None] | set[float]) -> str:
    numbers = sorted(value for value in values if value is not None)
    if not numbers:
        return f"no {name}"
    return f"{name} {numbers[0]:g}" + (f" to {numbers[-1]:g}" if len(numbers) > 1 else "")


def _size(stored: list[Tensor]) -> str:
    dtypes = ", ".join(dtype for dtype, _ in Counter(t.dtype for t in stored).most_common())
    return f"{sum(t.end - t.start for t in stored) / 1e6:.1f} MB of {dtypes}"


def _metadata(metadata: Mapping[str, str]) -> Iterator[str]:
    for key, name in _TRAINING.items():
        if metadata.get(key, "None") not in ("", "None", "null", "{}"):
            yield f"  {name}: {_printable(metadata[key])}"
    if words := _frequent(metadata.get("ss_tag_frequency", "")):
        yield f"  frequent words: {_printable(', '.join(words))}"


def _frequent(text: str) -> list[str]:
    """The words of kohya's ss_tag_frequency, {folder: {word: count}}, the most frequent first."""
    counts: Counter[str] = Counter()
    try:
        for words in json.loads(text).values():
            counts.update({str(word).strip(): int(count) for word, count in words.items()})
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):  # the text may hold anything
        return []
    return [word for word, _ in counts.most_common(_WORDS)]


def _printable(text: str) -> str:
    # Metadata may hold anything: control characters must not reach the terminal.
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean if len(clean) <= _LONGEST else clean[:_LONGEST] + " ..."
