"""What `--model`, `--vae`, `--control` and `--lora` take -> folders and adapters. It alone calls `convert`, lazily."""

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .checkpoint.lora import Lora, LoraSource
from .checkpoint.model_folder import CONTROL, VERSION, network_configs, read_model_json
from .checkpoint.network_folder import NetworkFolder, read_network_json
from .checkpoint.network_names import IMAGE_ENCODER, IP_ADAPTER, JSON, NETWORKS, T2I_ADAPTER
from .core import terminal
from .core.embedded import CHECKPOINTS, place
from .core.errors import InputError
from .core.files import turn
from .core.places import cache_folder
from .networks.control import ControlNet


def model_folder(model: str, variant: str | None = None, part: str = "unet") -> Path:
    """Returns the model folder that `--model` means; what is not one is converted into the cache on first use.

    The cache is the system's folder for caches, or MLX_SD_CACHE. A source that has changed is converted again. variant:
    "fp16" prefers a checkpoint's half-precision files. part: a network that it must have; "control" of `--control`.
    Raises InputError for what cannot be converted, and for a folder without that network.
    """
    if (folder := converted(model)) is not None:  # without the imports below, which take half a second
        _check_part(model, read_model_json(folder)["networks"], part)
        return folder
    from convert.sources.checkpoint import SourceOptions  # convert builds on this package
    from convert.sources.open_checkpoint import open_checkpoint
    from convert.writers.model_folder import write_model_folder

    checkpoint = open_checkpoint(model, SourceOptions(variant=variant))
    _check_part(model, checkpoint.components, part)
    out = _cached(checkpoint.path)
    with turn(out):  # other processes wait, and find it
        if not (out / "model.json").is_file():
            if checkpoint.warning:
                warnings.warn(checkpoint.warning, stacklevel=4)
            if model not in CHECKPOINTS:
                tensors = [tensor for part in checkpoint.components.values() for tensor in part.tensors.values()]
                size = terminal.size(sum(tensor.end - tensor.start for tensor in tensors))
                terminal.announce(f"{model} is converted, this once, to {out} ({size})")
            try:
                write_model_folder(checkpoint, out, {"model": model})
            except InputError as error:
                if not (out / "model.json").is_file():  # else another process was first, where nothing can be locked
                    raise InputError(f"{error}; the environment variable MLX_SD_CACHE names another folder") from None
    return out


def converted_here(model: str) -> Path | None:
    """Returns the model folder of a checkpoint that is on this machine; None where it is still to be converted.

    With HF_HUB_OFFLINE a hub id is only looked up in the hub's cache. Raises InputError for what is not here, and for
    what cannot be converted.
    """
    if (folder := converted(model)) is None:
        from convert.files import hub
        from convert.sources.open_checkpoint import open_checkpoint

        try:
            checkpoint = open_checkpoint(model)
        except InputError:
            if hub.is_id(model) and not Path(model).expanduser().exists():
                raise InputError(f"{model} is not downloaded, or not whole; make one picture with it first") from None
            raise
        _check_part(model, checkpoint.components, "unet")
        folder = converted(str(checkpoint.path))
    if folder is not None:
        _check_part(model, read_model_json(folder)["networks"], "unet")
    return folder


def configs(model: str, part: str = "unet") -> dict[str, dict[str, Any]]:
    """Returns the configs of a checkpoint's networks by their names, without converting it.

    part: a network that it must have; InputError where it has not, and for what cannot be opened.
    """
    if (folder := converted(model)) is not None:
        networks = network_configs(read_model_json(folder))
    else:
        from convert.sources.open_checkpoint import open_checkpoint

        networks = {name: component.config for name, component in open_checkpoint(model).components.items()}
    _check_part(model, networks, part)
    return networks


def vae_folder(name: str, replaced: Mapping[str, Any]) -> NetworkFolder:
    """Returns the folder of the autoencoder that `--vae` means, converted into the cache on first use.

    replaced: the config of the model's own, whose latents have the same scale. InputError where there is no such VAE.
    """
    from convert.sources.open_checkpoint import open_vae

    return _network_folder("vae", name, open_vae(Path(name), replaced))


def adapter_folder(name: str) -> NetworkFolder:
    """Returns the folder of the T2I-Adapter that `--adapter` names, converted into the cache on first use."""
    from convert.sources.t2i_adapter import open_adapter

    return _network_folder(T2I_ADAPTER, name, open_adapter(name))


def ip_adapter_folder(name: str) -> NetworkFolder:
    """Returns the folder of the IP-Adapter that `--ip-adapter` names, converted into the cache on first use."""
    from convert.sources.ip_adapter import open_ip_adapter

    return _network_folder(IP_ADAPTER, name, open_ip_adapter(name))


def image_encoder_folder(name: str | None, adapter: str, model: str) -> NetworkFolder:
    """Returns the folder of an IP-Adapter's image encoder, converted into the cache on first use.

    name: of `--ip-encoder`; None is the one beside the adapter, or in the model's diffusers folder.
    """
    from convert.sources.ip_adapter import open_image_encoder

    component = open_image_encoder(name, adapter, Path(model) if Path(model).is_dir() else None)
    return _network_folder(IMAGE_ENCODER, name or adapter, component)


def _network_folder(part: str, name: str, component: Any) -> NetworkFolder:
    """Returns the folder of a network that is open, which is converted into the cache on first use."""
    from convert.writers.network_folder import write_network_folder

    identity = [VERSION, part, component.config, [_state(file) for file in component.files]]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    out = cache_folder() / NETWORKS / f"{component.files[0].stem}-{digest}"
    with turn(out):
        if not (out / JSON).is_file():
            try:
                write_network_folder(part, component, out, name)
            except InputError:
                if not (out / JSON).is_file():  # else another process was first
                    raise
    return read_network_json(out)


def _state(file: Path) -> list[Any]:
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]


def adapters(loras: Sequence[LoraSource], folder: str | os.PathLike[str] | None = None) -> list[Any]:
    """Opens adapters, to be merged by `merge_plan`; InputError where one cannot be read.

    folder: of those that are given by name; None is that of MLX_SD_LORAS.
    """
    if not loras:
        return []
    from convert.adapters.merge import open_adapters

    return open_adapters((Lora.of(source) for source in loras), folder)


def merge_plan(adapters: list[Any], networks: Mapping[str, nn.Module], strict: bool = False) -> Any:
    """Returns a function (network, parameter, array) -> merged array, with `records`; None without adapters.

    strict: whether a module that is of no layer is an InputError, and not a warning.
    """
    if not adapters:
        return None
    from convert.adapters.merge import plan_merge

    return plan_merge(adapters, networks, strict)


def runtime_plan(adapters: list[Any], networks: Mapping[str, nn.Module], strict: bool = False) -> Any:
    """Returns what adapters add beside layers, for `RuntimeLoras`; the networks are not quantized yet.

    strict: as of `merge_plan`.
    """
    from convert.adapters.runtime import plan_runtime

    return plan_runtime(adapters, networks, strict)


def write_trained_model(
    folder: Path, out: Path, dtype: mx.Dtype, networks: Mapping[str, tuple[Mapping[str, Any], nn.Module]]
) -> None:
    """Writes the diffusers folder of a model folder, some of whose networks were trained; see `convert.writers`."""
    from convert.writers.diffusers_folder import write_diffusers_folder

    write_diffusers_folder(folder, out, dtype, networks)


def write_trained_control(network: ControlNet, unet: Mapping[str, Any], out: Path, dtype: mx.Dtype) -> None:
    """Writes the diffusers folder of a ControlNet; unet: the config of the UNet that it is for."""
    from convert.writers.control_folder import write_control_folder

    write_control_folder(network, unet, out, dtype)


def layer_names(part: str, names: Mapping[str, str], layer: str) -> tuple[str, str]:
    """Returns the names by which files are written for a layer of network `part`; `adapters` reads both.

    They are diffusers', and that of the UNet or ControlNet in the original code, or diffusers' again. names: the
    network's own.
    """
    from convert.files.diffusers_names import written_name
    from convert.files.original_names import control_layer, unet_layer

    name = written_name(part, names, layer)
    if part == CONTROL:
        return name, control_layer(layer, name, names)
    return name, unet_layer(layer, name) if part == "unet" else name


def converted(model: str) -> Path | None:
    """Returns the model folder that a checkpoint is, or has been converted to; None where there is none yet."""
    local = place(model, CHECKPOINTS)
    if (local / "model.json").is_file():
        return local
    return _cached(local) if local.exists() and (_cached(local) / "model.json").is_file() else None


def _check_part(model: str, networks: Collection[str], part: str) -> None:
    if part == CONTROL and part not in networks:
        raise InputError(f"{model} is no ControlNet, which --control takes; a checkpoint is given by --model")
    if part != CONTROL and CONTROL in networks:
        raise InputError(f"{model} is a ControlNet; give it by --control beside the checkpoint it is for")


def _cached(source: Path) -> Path:
    """Returns the model folder that a checkpoint on this machine is converted to, which need not exist."""
    return cache_folder() / f"{source.resolve().name}-{_fingerprint(source)}"


def _fingerprint(folder: Path) -> str:
    # Enough to notice a changed checkpoint without reading it.
    files = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    stats = [(str(p.relative_to(folder)), p.stat()) for p in files if p.is_file()]
    identity = [VERSION, str(folder.resolve()), [(name, s.st_size, s.st_mtime_ns) for name, s in stats]]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
