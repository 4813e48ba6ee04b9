"""A model folder -> networks, strictly: every weight is there and has its shape."""

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from . import resolve
from .checkpoint.lora import LoraSource
from .checkpoint.model import DTYPES, Model, default_dtype
from .checkpoint.model_folder import (
    TEXT,
    absent,
    build,
    model_hash,
    network_configs,
    network_tensors,
    parameter_name,
    read_about,
    scheduler_config,
    shapes,
    tokenizers,
)
from .core import blas
from .core.errors import InputError
from .networks import quantization
from .networks.classes import Classes
from .networks.family import family_of, task_of
from .networks.vae import Pixels
from .sampling.low_res import LowRes
from .sampling.scheduler import Scheduler


def load(
    model: str | os.PathLike[str] = "tiny",
    dtype: str | mx.Dtype | None = None,
    loras: Sequence[LoraSource] = (),
    quantize: str | None = None,
) -> Model:
    """Loads "tiny", a model folder, a diffusers folder, a single file or a hub id; the cache keeps what it converts.

    loras: paths, or pairs of path and scale, merged in memory in float32. quantize: what `--quantize` takes, done in
    memory after that; a folder that was converted with it takes neither.
    """
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise InputError(f"unknown dtype {dtype!r}; there are {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    dtype = dtype or default_dtype()
    if mx.default_device() == mx.cpu and (problem := blas.problem()):
        warnings.warn(problem, stacklevel=3)
    if quantize:
        quantization.parse(quantize)
    adapters = resolve.adapters(loras)
    folder = resolve.converted(os.fspath(model), variant="fp16" if dtype == mx.float16 else None)
    about = read_about(folder)
    if missing := absent(about["networks"], about["pipeline"]):
        raise InputError(f"{folder}/model.json lists no {missing}; convert the checkpoint again")
    configs = network_configs(about)
    built = {part: build(part, config, f"{folder}/model.json: {part}") for part, config in configs.items()}
    stored = quantization.from_record(about["quantization"], f"{folder}/model.json")
    if stored and (adapters or quantize):
        why = "an adapter vanishes in it when it is merged" if adapters else "that is not done twice"
        raise InputError(f"{os.fspath(model)} is quantized, and {why}; convert its source again with both")
    wanted = quantization.parse_for(built, quantize)
    merge = resolve.merge_plan(adapters, built)
    networks: dict[str, Any] = built
    for part, network in built.items():
        if part in stored:
            quantization.replace_layers(network, stored[part])
        _fill(network, folder, part, about["version"], dtype, merge and partial(merge, part))
        if part in wanted:
            quantization.quantize_network(network, wanted[part])
    texts = [part for part in TEXT if part in networks]
    unet, embedder = networks["unet"], networks.get("class_embedder")
    config = unet.config
    vae = networks.get("vae") or Pixels(config.out_channels, config.sample_size)
    classes = Classes.of(config, embedder and embedder.config, about["pipeline"], f"{folder}/model.json")
    task = task_of(config, vae.config.latent_channels)
    aesthetic_score = bool(about["pipeline"].get("requires_aesthetics_score", False))
    return Model(
        name=os.fspath(model),
        hash=model_hash(about),
        dtype=dtype,
        text_encoders=tuple(networks[part] for part in texts),
        tokenizers=tokenizers(folder, networks),
        unet=unet,
        vae=vae,
        scheduler=Scheduler.from_hf(
            scheduler_config(about),
            f"{folder}/model.json: scheduler",
            xl=config.added_time_dims is not None,
        ),
        zeros_for_empty=bool(about["pipeline"].get("force_zeros_for_empty_prompt", False)),
        family=family_of(config, task, text=bool(texts), classes=classes is not None, aesthetic_score=aesthetic_score),
        task=task,
        loras=tuple(merge.records if merge else ()),
        quantization=quantize,
        folder=folder,
        low_res=LowRes.of(about, f"{folder}/model.json"),
        classes=classes,
        class_embedder=embedder,
    )


def _fill(
    network: nn.Module,
    folder: Path,
    part: str,
    version: int,
    dtype: mx.Dtype,
    change: Callable[[str, mx.array], mx.array] | None,
) -> None:
    file = folder / f"{part}.safetensors"
    have = {name: tensor.shape for name, tensor in network_tensors(folder, part, version).items()}
    wanted = shapes(network)
    if have != wanted:
        wrong = sorted(name for name in have.keys() | wanted.keys() if have.get(name) != wanted.get(name))
        raise InputError(f"{file} does not fit model.json ({', '.join(wrong[:8])}); remove {folder} and convert again")
    if part == "vae" and network.config.force_upcast and dtype == mx.float16:
        dtype = mx.float32  # this VAE's activations overflow float16
    stored: Any = mx.load(str(file))
    weights: Any = {parameter_name(part, name, version): array for name, array in stored.items()}
    del stored
    if change:
        for name, array in weights.items():
            weights[name] = change(name, array).astype(dtype)
            mx.eval(weights[name])  # one weight's float32 at a time
    network.load_weights([(name, _cast(array, dtype)) for name, array in weights.items()])
    mx.eval(network.parameters())


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array if array.dtype == mx.uint32 else array.astype(dtype)  # codes are no numbers
