"""What a safetensors file is, in a few lines."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlx.nn import Module as Network

from mlx_sd.checkpoint.lora import Lora
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor, metadata, tensors

from .adapters import adapter_file, merge

# How some name begins -> what a file with it holds, the first that fits.
_CHECKPOINTS = (
    ("model.diffusion_model.", "a whole checkpoint in one file"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("time_embedding.", "a UNet"),
    ("first_stage_model.", "an autoencoder in the original code's names"),
    ("quant_conv.", "an autoencoder"),
    ("decoder.mid_block.", "an autoencoder"),
    ("text_model.", "a text encoder"),
    ("encoder.layers.", "a text encoder"),
    ("string_to_param", "a textual inversion embedding"),
    ("emb_params", "a textual inversion embedding"),
)
# What trainers write about a training -> how it is called here.
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
_SCALES = {"rank": "rank", "alpha": "alpha", "scaling": "scaled by"}
_WORDS, _LONGEST = 12, 200


def describe(path: str, model: str | None = None, networks: Mapping[str, Network] | None = None) -> Iterator[str]:
    """Lines that say what a safetensors file holds; with a model's networks, whether it can be merged into them.

    `path` may be a folder or a hub id, as for `--lora`. Raises InputError for what cannot be read.
    """
    place = merge.locate(path)
    file = place / adapter_file.choose(sorted(p.name for p in place.iterdir()), path) if place.is_dir() else place
    found = list(tensors(file))
    if any(adapter_file.is_part(tensor.name) for tensor in found):
        read = adapter_file.read(file)
        yield from _adapter(read)
        if networks is not None:
            yield from (f"  of no layer: {name}" for name in merge.unmatched(read, merge.layers_of(networks)))
            try:
                merge.plan_merge(merge.open_adapters([Lora(str(file))]), networks)
            except InputError as error:
                yield f"  does not fit {model}: {error}"
            else:
                yield f"  fits {model}"
    else:
        yield from _checkpoint(file, found)


def _adapter(read: adapter_file.Adapter) -> Iterator[str]:
    kinds = Counter(_kind(module) for module in read.modules)
    stored = [t for module in read.modules for t in (*module.factors.values(), *module.beside.values())]
    yield (
        f"{read.file}: {' and '.join(kind for kind, _ in kinds.most_common())} "
        f"for {merge.family(read) or 'a family it does not tell'}, {_size(stored)}"
    )
    for part, modules in _by_part(read).items():
        values = [_values(name, {getattr(m, what) for m in modules}) for what, name in _SCALES.items()]
        yield f"  {part}: {len(modules)} modules, {', '.join(values)}"
    yield from _metadata(read.metadata)
    yield f"  sha256: {read.sha256}"


def _checkpoint(file: Path, found: list[Tensor]) -> Iterator[str]:
    what = next(
        (what for start, what in _CHECKPOINTS if any(t.name.startswith(start) for t in found)), "nothing known here"
    )
    widths = {t.shape[1] for t in found if t.name.endswith("attn2.to_k.weight")}
    family = f" for {merge.named(widths)}" if widths else ""
    yield f"{file}: {what}{family}, {len(found)} tensors, {_size(found)}"
    yield from _metadata(metadata(file))


def _kind(module: adapter_file.Module) -> str:
    name = module.kind.name if module.kind else "bias"
    weighted = not module.beside.keys().isdisjoint(("dora_scale", "magnitude"))
    return f"DoRA ({name})" if weighted else name


def _by_part(read: adapter_file.Adapter) -> dict[str, list[adapter_file.Module]]:
    found: dict[str, list[adapter_file.Module]] = {}
    for module in read.modules:
        found.setdefault(module.part or "network not named", []).append(module)
    return dict(sorted(found.items()))


def _values(what: str, values: set[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return f"no {what}"
    return f"{what} {known[0]:g}" + (f" to {known[-1]:g}" if len(known) > 1 else "")


def _size(stored: list[Tensor]) -> str:
    kinds = ", ".join(kind for kind, _ in Counter(t.dtype for t in stored).most_common())
    return f"{sum(t.end - t.start for t in stored) / 1e6:.1f} MB of {kinds}"


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
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):  # anybody's text
        return []
    return [word for word, _ in counts.most_common(_WORDS)]


def _printable(text: str) -> str:
    # Metadata is anybody's text: nothing in it may speak to the terminal.
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean if len(clean) <= _LONGEST else clean[:_LONGEST] + " ..."
