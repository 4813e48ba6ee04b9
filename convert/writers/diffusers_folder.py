"""A model folder -> a diffusers folder: names, layout and configs as diffusers and transformers save them."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_sd.checkpoint.model_folder import CONTROL, build, network_tensors, read_model_json, shapes
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import TENSOR_DTYPES, atomic_folder
from mlx_sd.core.terminal import progress

from ..files.diffusers_names import written_name
from ..files.safetensors_stream import Entry, write_tensors
from ..sources.checkpoint import SCHEDULERS, VQ, Vocabulary
from .model_folder import write_tokenizer

_TEXT = ("CLIPTextModel",)
_VERSION = "0.30.0"  # of diffusers, whose names and fields these are, where the source does not say
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
# Parts that a pipeline's constructor requires as null where they are absent
_ABSENT = {
    "StableDiffusionPipeline": ("feature_extractor", "image_encoder", "safety_checker"),
    "StableDiffusionInpaintPipeline": ("feature_extractor", "image_encoder", "safety_checker"),
    "StableDiffusionInstructPix2PixPipeline": ("feature_extractor", "image_encoder", "safety_checker"),
    "StableDiffusionUpscalePipeline": ("feature_extractor", "safety_checker", "watermarker"),
    "StableDiffusionXLPipeline": ("feature_extractor", "image_encoder"),
    "StableDiffusionXLImg2ImgPipeline": ("feature_extractor", "image_encoder", "text_encoder", "tokenizer"),
    "StableDiffusionXLInpaintPipeline": ("feature_extractor", "image_encoder"),
}


def write_diffusers_folder(
    folder: Path,
    out: Path,
    dtype: mx.Dtype | None = None,
    trained: Mapping[str, tuple[Mapping[str, Any], nn.Module]] | None = None,
) -> None:
    """Writes the diffusers folder `out`, which must not exist, from a model folder; complete or not at all.

    dtype: of the weights; None keeps the model folder's. trained: networks in memory, with their configs, that take the
    places of the folder's. Raises InputError where `folder` is no model folder, or one that diffusers could not load.
    """
    about = read_model_json(folder)
    if about.get("quantization"):
        raise InputError(f"{folder} is quantized, which diffusers does not read; convert the checkpoint again without")
    if problem := _problem(about["networks"]):
        raise InputError(f"{folder}: {problem}")
    about["networks"] |= {part: config for part, (config, _) in (trained or {}).items()}
    networks = {
        part: network_entries(part, config, trained[part][1], dtype or mx.float32)
        if trained and part in trained
        else _entries(folder, part, about["version"], config, dtype)
        for part, config in about["networks"].items()
    }
    total = sum(entry.size for entries in networks.values() for entry in entries)
    with atomic_folder(out, total) as home, progress(total, "diffusers") as advance:
        for part, entries in networks.items():
            place = home / _name(part, about)
            place.mkdir()
            config = about["networks"][part]
            if part in _CLASSES:
                config = {"_class_name": _CLASSES[part]} | config
            _write_json(place / "config.json", config)
            stem = "diffusion_pytorch_model" if part in _CLASSES else "model"
            write_tensors(place / f"{stem}.safetensors", entries, advance, format="pt")
        for name in about["tokenizers"]:
            write_tokenizer(Vocabulary(folder / name), home / name)
        schedulers = {name: about[name] for name in SCHEDULERS if name in about}
        for name, config in schedulers.items():
            (home / name).mkdir()
            _write_json(home / name / "scheduler_config.json", config)
        _write_json(home / "model_index.json", _index(about, schedulers))


def _name(part: str, about: Mapping[str, Any]) -> str:
    """The name of a part in the source's pipeline."""
    latent = str(about["pipeline"].get("_class_name", "")).startswith(("LDM", "LatentDiffusion"))
    return VQ if part == "vae" and latent else part


def _problem(configs: Mapping[str, Any]) -> str | None:
    """Why diffusers could not load these networks."""
    if CONTROL in configs:
        return "a ControlNet is not written back; diffusers reads the folder or file that it was converted from"
    if "class_embedder" in configs:
        return "diffusers has no pipeline for class-conditional latent diffusion with a class embedder"
    if configs["unet"].get("_class_name") == "UNet2DModel" and isinstance(
        configs["unet"].get("attention_head_dim"), list
    ):
        return "diffusers' UNet2DModel has heads of one size, this one has several"
    return None


def _entries(folder: Path, part: str, version: int, config: dict[str, Any], dtype: mx.Dtype | None) -> list[Entry]:
    network = build(part, config, f"{folder}/model.json: {part}")
    stored = network_tensors(folder, part, version)
    if {name: tensor.shape for name, tensor in stored.items()} != shapes(network):
        raise InputError(f"{folder}/{part}.safetensors does not fit model.json; convert the checkpoint again")
    return [
        _entry(part, config, network, parameter, tensor.shape, dtype or TENSOR_DTYPES[tensor.dtype][1], tensor.read)
        for parameter, tensor in stored.items()
    ]


def network_entries(part: str, config: Mapping[str, Any], network: nn.Module, dtype: mx.Dtype) -> list[Entry]:
    """Returns the tensors of a network in memory as diffusers names and lays them out."""
    arrays: Any = tree_flatten(network.parameters())
    return [
        _entry(part, config, network, parameter, array.shape, dtype, partial(mx.array, array))
        for parameter, array in arrays
    ]


def _entry(
    part: str,
    config: Mapping[str, Any],
    network: Any,
    parameter: str,
    shape: tuple[int, ...],
    dtype: mx.Dtype,
    read: Callable[[], mx.array],
) -> Entry:
    name = written_name(part, network.names, parameter)
    # The one layer that is a convolution in some checkpoints and a linear one in others, which compute the same
    convolutions = part in ("unet", CONTROL) and not config.get("use_linear_projection")
    if len(shape) == 4:
        o, h, w, i = shape
        shape = (o, i, h, w)
    elif convolutions and name.endswith((".proj_in.weight", ".proj_out.weight")):
        shape = (*shape, 1, 1)

    def first_channels() -> mx.array:
        """Reads the tensor, channels first as in torch."""
        array = read()
        return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array

    return Entry(name, shape, dtype, first_channels)


def _index(about: dict[str, Any], schedulers: Mapping[str, Any]) -> dict[str, Any]:
    """model_index.json: the pipeline's own fields, and the class of each part."""
    parts: dict[str, Any] = {}
    for part, config in about["networks"].items():
        if part in _CLASSES:
            entry = ["diffusers", config.get("_class_name", _CLASSES[part])]
        else:
            entry = ["transformers", (config.get("architectures") or _TEXT)[0]]
        parts[_name(part, about)] = entry
    parts |= {name: ["transformers", "CLIPTokenizer"] for name in about["tokenizers"]}
    parts |= {name: ["diffusers", config.get("_class_name", "PNDMScheduler")] for name, config in schedulers.items()}
    absent = _ABSENT.get(about["pipeline"].get("_class_name", ""), ())
    nulls = {name: [None, None] for name in absent if name not in parts}
    return {"_diffusers_version": _VERSION, **about["pipeline"], **nulls, **parts}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
