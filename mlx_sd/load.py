"""A model folder -> networks, strictly: every weight is there and has its shape."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from . import memory, resolve
from .checkpoint import tiny_vaes
from .checkpoint.lora import LoraSource
from .checkpoint.low_memory import LowMemory
from .checkpoint.model import DTYPES, LORA_MODES, Model, default_dtype
from .checkpoint.model_folder import (
    TEXT,
    VERSION,
    build,
    checkpoint_hash,
    missing_network,
    model_hash,
    network_configs,
    read_model_json,
    scheduler_config,
    tokenizers,
)
from .checkpoint.network_folder import NetworkFolder
from .checkpoint.token_diffusion import TokenDiffusion
from .core import blas, terminal
from .core.errors import InputError
from .core.suggestions import unknown
from .networks import quantization
from .networks.classes import Classes
from .networks.configs import TinyConfig, VAEConfig, vae_config
from .networks.family import Family, Task, family_of, task_of
from .networks.vae import Autoencoder, Pixels
from .runtime_loras import RuntimeLoras
from .sampling.low_res import LowRes
from .sampling.scheduler import Scheduler
from .spellings import DTYPE_VALUES
from .tuning.apply import measured
from .weight_file import WeightFile

_SD_SCALE, _SDXL_SCALE = 0.18215, 0.13025  # of the latents of Stable Diffusion 1 and 2, and of SDXL


def load(
    model: str | os.PathLike[str] = "tiny",
    dtype: str | mx.Dtype | None = None,
    loras: Sequence[LoraSource] = (),
    quantize: str | None = None,
    *,
    lora_folder: str | os.PathLike[str] | None = None,
    lora_strict: bool = False,
    vae: str | os.PathLike[str] | None = None,
    lora_mode: str = "merge",
    low_memory: bool = False,
) -> Model:
    """Loads "tiny", a model folder, a diffusers folder, a single file or a hub id; a cache keeps what is converted.

    dtype: of the networks; None is float16 on a GPU, float32 on the CPU. loras: paths, or pairs of path and scale,
    merged in memory in float32. quantize: the text of `--quantize`, done in memory after that; a folder that was
    converted with it takes neither. lora_folder: of LoRAs that are given by name; None is that of MLX_SD_LORAS.
    lora_strict: a LoRA that fits only in part is an error, and not a warning. vae: an autoencoder in the place of the
    model's own: a file, a folder, a hub id, "taesd" or "taesdxl". lora_mode: "merge", or "runtime": beside the layers,
    as only quantized folders can have them; `Model.runtime_loras` changes the scales. low_memory: weights are in memory
    only while their network works, and are read again for each batch of pictures; those that are quantized here stay.
    Raises InputError where these do not fit together.
    """
    name, dtype = os.fspath(model), _dtype(dtype)
    if lora_mode not in LORA_MODES:
        raise unknown("LoRA mode", lora_mode, LORA_MODES)
    if mx.default_device() == mx.cpu and (problem := blas.problem()):
        warnings.warn(problem, stacklevel=1)  # of this line, so that Python shows it once
    if quantize:
        quantization.parse(quantize)
    adapters = resolve.adapters(loras, lora_folder)
    folder = resolve.model_folder(name, variant="fp16" if dtype == mx.float16 else None)
    about = read_model_json(folder)
    networks = _build(folder, about)
    tokens = TokenDiffusion.of(networks, about["scheduler"], f"{folder}/model.json")
    if tokens:
        _check_plain(name, adapters, vae, lora_mode)
    places = dict.fromkeys(networks, (folder, about["version"]))
    replacement = None if vae is None else _replace_vae(os.fspath(vae), networks, about)
    if replacement:
        places["vae"] = replacement.folder, VERSION
    stored_schemes = quantization.from_record(about["quantization"], f"{folder}/model.json")
    beside = lora_mode == "runtime"
    if stored_schemes and quantize:
        raise InputError(f"{name} is quantized, and that is not done twice; convert its source again")
    if stored_schemes and adapters and not beside:
        raise InputError(
            f"{name} is quantized, and an adapter vanishes in it when it is merged; --lora-mode runtime keeps it "
            "beside the layers, or convert its source again with both"
        )
    schemes = quantization.parse_for(networks, quantize)
    merge = None if beside else resolve.merge_plan(adapters, networks, lora_strict)
    plan = resolve.runtime_plan(adapters, networks, lora_strict) if beside and adapters else None
    files = [home / f"{part}.safetensors" for part, (home, _) in places.items()]
    for part, scheme in stored_schemes.items():
        if part in networks and not (replacement and part == "vae"):
            quantization.replace_layers(networks[part], scheme)
    turns = LowMemory() if low_memory else None
    if turns is None:
        memory.check_weights(name, networks, dtype)
    with terminal.progress(sum(file.stat().st_size for file in files if file.is_file()), "load") as advance:
        for part, network in networks.items():
            file = WeightFile(*places[part], part, dtype, merge and partial(merge, part))
            if turns:
                file.lend(network)
            else:
                file.fill(network, advance)
            if part in schemes:
                quantization.quantize_network(network, schemes[part])
            elif turns:
                turns.add(part, partial(file.lend, network))
    model_record = replace(_model(name, folder, about, dtype, networks, tokens), low_memory=turns)
    model_record = replace(model_record, tunings=measured(model_record))
    if plan:
        runtime = RuntimeLoras(networks, plan, dtype)
        if turns:
            turns.afterwards = runtime.restore
        model_record = replace(model_record, lora_mode=lora_mode, runtime_loras=runtime)
        return replace(model_record, loras=runtime.records, lora_hashes=runtime.hashes, quantization=quantize)
    records, hashes = (merge.records, merge.autov3) if merge else ((), ())
    if replacement:
        model_record = replace(model_record, vae_name=os.fspath(vae or ""), vae_hash=replacement.hash)
    return replace(model_record, loras=tuple(records), lora_hashes=tuple(hashes), quantization=quantize)


def outline(model: str | os.PathLike[str]) -> Model | None:
    """Returns the record of a model whose networks have no weights, for checks and counts of what it would do.

    None where the model is not converted yet. InputError for a folder that is damaged.
    """
    name = os.fspath(model)
    if (folder := resolve.converted(name)) is None:
        return None
    about = read_model_json(folder)
    networks = _build(folder, about)
    tokens = TokenDiffusion.of(networks, about["scheduler"], f"{folder}/model.json")
    return _model(name, folder, about, default_dtype(), networks, tokens)


def _check_plain(name: str, adapters: Sequence[Any], vae: object, lora_mode: str) -> None:
    """Raises InputError for parts that nothing makes for models of tokens."""
    if adapters or lora_mode != "merge":
        raise InputError(f"{name} is {Family.TOKENS.value}, which no LoRA is for; leave --lora and --lora-mode out")
    if vae is not None:
        raise InputError(f"{name} makes tokens of its own autoencoder, which no other decodes; leave --vae out")


def _dtype(dtype: str | mx.Dtype | None) -> mx.Dtype:
    if dtype is None:
        return default_dtype()
    if isinstance(dtype, str):
        dtype = DTYPE_VALUES.get(dtype, dtype)
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        return DTYPES[dtype]
    return dtype


def _build(folder: Path, about: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Builds the networks that model.json lists, without weights; InputError where one is missing."""
    if missing := missing_network(about["networks"], about["pipeline"]):
        raise InputError(f"{folder}/model.json lists no {missing}; convert the checkpoint again")
    configs = network_configs(about)
    return {part: build(part, config, f"{folder}/model.json: {part}") for part, config in configs.items()}


def _replace_vae(name: str, networks: dict[str, nn.Module], about: Mapping[str, Any]) -> NetworkFolder:
    """Puts another autoencoder, without weights, in the place of the model's own; returns the folder that has them.

    InputError where the model has none, and where the latents of the two are not of one shape.
    """
    if "vae" not in networks:
        raise InputError("this model has no autoencoder to replace: it works on pixels; leave --vae out")
    tiny_vaes.check(name, networks["unet"].config.added_time_dims is not None)
    replacement = resolve.vae_folder(name, network_configs(about)["vae"])
    network = build("vae", replacement.config, name)
    _check_latents(name, network.config, networks["vae"].config)
    networks["vae"] = network
    return replacement


def _check_latents(name: str, config: VAEConfig, before: VAEConfig) -> None:
    if (config.latent_channels, config.downsampling) != (before.latent_channels, before.downsampling):
        raise InputError(
            f"{name}: its latents have {config.latent_channels} channels and {config.downsampling} pixels a side; this "
            f"model's have {before.latent_channels} and {before.downsampling}"
        )


def load_vae(name: str, model: Model, dtype: mx.Dtype) -> Autoencoder:
    """Loads an autoencoder for the latents of a model; name: as of `--vae`. InputError as `load` raises it."""
    tiny_vaes.check(name, model.unet.config.added_time_dims is not None)
    place = resolve.vae_folder(name, {})
    network: Any = build("vae", place.config, name)
    _check_latents(name, network.config, model.vae.config)
    WeightFile(place.folder, VERSION, "vae", dtype).fill(network)
    vae: Autoencoder = network
    return vae


def _model(
    name: str,
    folder: Path,
    about: Mapping[str, Any],
    dtype: mx.Dtype,
    networks: Mapping[str, Any],
    tokens: TokenDiffusion | None,
) -> Model:
    """Returns the record of a loaded folder: its networks and what model.json says beside them."""
    where, pipeline = f"{folder}/model.json", about["pipeline"]
    texts = [part for part in TEXT if part in networks]
    unet, embedder = tokens.network.unet if tokens else networks["unet"], networks.get("class_embedder")
    config = unet.config
    vae = networks.get("vae") or Pixels(config.out_channels, config.sample_size)
    classes = Classes.of(config, embedder and embedder.config, pipeline, where)
    task = task_of(config, vae.config.latent_channels)
    aesthetic_score = bool(pipeline.get("requires_aesthetics_score", False))
    family = family_of(config, task, text=bool(texts), classes=classes is not None, aesthetic_score=aesthetic_score)
    sdxl = config.added_time_dims is not None
    scheduler = {} if tokens else scheduler_config(about)
    return Model(
        name=name,
        hash=model_hash(about),
        checkpoint_hash=checkpoint_hash(about),
        dtype=dtype,
        family=family,
        task=task,
        text_encoders=tuple(networks[part] for part in texts),
        tokenizers=tokenizers(folder, networks),
        unet=unet,
        vae=vae,
        scheduler=Scheduler.from_hf(scheduler, f"{where}: scheduler", xl=sdxl),
        zeros_for_empty=bool(pipeline.get("force_zeros_for_empty_prompt", False)),
        folder=folder,
        low_res=LowRes.of(about, where) if family is Family.UPSCALER else None,
        image_factor=_image_factor(about, sdxl) if task is Task.INSTRUCTION else None,
        classes=classes,
        tokens=tokens,
        class_embedder=embedder,
    )


def _image_factor(about: Mapping[str, Any], sdxl: bool) -> float:
    """Returns what takes the scale of the UNet's latents from those of an image: InstructPix2Pix sees them unscaled.

    CosXL Edit sees them scaled. A tiny autoencoder makes scaled latents, and its config does not hold their scale.
    """
    if about["pipeline"].get("is_cosxl_edit"):
        return 1.0
    config = vae_config(network_configs(about)["vae"])
    scale = (_SDXL_SCALE if sdxl else _SD_SCALE) if isinstance(config, TinyConfig) else config.scaling_factor
    return 1 / scale


def beside(
    model: Model,
    folder: Path,
    part: str,
    make: Callable[[], nn.Module],
    version: int = VERSION,
    change: Callable[[], Callable[[str, mx.array], mx.array] | None] = lambda: None,
) -> Any:
    """Returns a network that stands beside a model, loaded on first use; `make` builds it without weights.

    change: returns what changes the weights, as `WeightFile` takes it.
    """
    if (network := model.networks_beside.get(str(folder))) is None:
        network = make()
        WeightFile(folder, version, part, model.dtype, change()).fill(network)
        model.networks_beside[str(folder)] = network
    return network
