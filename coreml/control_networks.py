"""The control networks of an export: those that --control names, checked against the model, with names for packages."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_sd import control_fit, resolve
from mlx_sd.checkpoint.control import divided_mode
from mlx_sd.checkpoint.model import Model
from mlx_sd.checkpoint.model_folder import (
    CONTROL,
    DIFFERENCES,
    TEXT,
    model_hash,
    network_configs,
    network_tensors,
    read_model_json,
)
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor
from mlx_sd.networks.configs import VAEConfig, vae_config
from mlx_sd.networks.control import ControlNet
from mlx_sd.networks.control_config import ControlConfig
from mlx_sd.networks.family import family_of, task_of
from mlx_sd.networks.unet_config import UNetConfig

FOLDER = "controlnet"  # of packages with the interface of Apple's code, where it looks for them
DEEPCACHE = f"{FOLDER}/deepcache"  # of packages for DeepCache alone
ROLES = ("control", "control_shallow", "control_image")  # each is followed by a colon and the network's name
_WORD = re.compile(r"[^\W_]+(?:\.[^\W_]+)*")


@dataclass(frozen=True)
class ControlSource:
    """A control network to export."""

    name: str  # of its package, without folder and suffix
    model: str  # as --control named it, without the mode
    mode: str | None  # of a union, fixed by the export
    folder: Path  # of the converted network
    config: ControlConfig

    @property
    def part(self) -> str:
        """Returns its name among the networks of an export, which is also the path of its package."""
        return f"{FOLDER}/{self.name}"

    @property
    def mode_number(self) -> int:
        """Returns the number of its mode, 0 of networks of one kind."""
        return control_fit.mode_number(self.model, self.mode, self.config)

    def network(self) -> ControlNet:
        """Returns the network without its weights."""
        return ControlNet(self.config)

    def tensors(self, unet: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns its stored weights by parameter; `unet`: those of the UNet, to which differences are added."""
        about = read_model_json(self.folder)
        stored = network_tensors(self.folder, CONTROL, about["version"])
        differences = set(about.get(DIFFERENCES) or ())
        return {
            name: _Sum(tensor, unet[name], tensor.shape) if name in differences and name in unet else tensor
            for name, tensor in stored.items()
        }

    def describe(self) -> dict[str, Any]:
        """Returns what info.json says of it."""
        about = read_model_json(self.folder)
        return {
            "model": self.model,
            "mode": self.mode,
            "hash": model_hash(about),
            "config": network_configs(about)[CONTROL],
        }

    def to_request(self) -> dict[str, Any]:
        """Returns it as JSON, for the process that writes an asset; `of_request` reads it."""
        return {"name": self.name, "model": self.model, "mode": self.mode, "folder": str(self.folder.resolve())}


class _Sum(NamedTuple):
    """A weight that is stored as its difference from the UNet's; read like a `Tensor`."""

    difference: Tensor
    base: Tensor
    shape: tuple[int, ...]

    def read(self) -> mx.array:
        """Returns the sum in float32."""
        return self.difference.read().astype(mx.float32) + self.base.read().astype(mx.float32)


def role(kind: str, name: str) -> str:
    """Returns the role of a network's function in info.json; kind: one of ROLES."""
    return f"{kind}:{name}"


def package_name(model: str, mode: str | None = None) -> str:
    """Returns the name of a network's package, as Apple's converter has it: the words of the hub id, capitalised.

    Of a folder or a file it is the words of the name alone; a union's mode follows.
    """
    path = Path(model).expanduser()
    text = model
    if path.exists():
        text = path.resolve().stem if path.is_file() else path.resolve().name
    return "".join(word.title() for word in _WORD.findall(f"{text} {mode or ''}")) or "Control"


def check(model: str, texts: Sequence[str]) -> None:
    """Raises InputError where a control network does not fit a model, from configs alone; nothing is converted.

    model: as `--model` takes it. texts: as `--control` takes them.
    """
    pairs = [divided_mode(text) for text in texts]
    names: dict[str, str] = {}
    for text, pair in zip(texts, pairs, strict=True):
        name = package_name(*pair)
        if (other := names.setdefault(name.lower(), text)) is not text:
            raise InputError(f"--control {other} and --control {text} have packages of one name, {name}; rename one")
    networks = resolve.configs(model)
    if not texts or not {"unet", "vae"} <= networks.keys() or not networks.keys() & {*TEXT}:
        return  # the plan says the rest
    unet = UNetConfig.from_hf(networks["unet"], f"{model}: unet")
    if unet.token_states is not None:
        return  # so it does here
    latent_channels = vae_config(networks["vae"], f"{model}: vae").latent_channels
    task = task_of(unet, latent_channels)
    family = family_of(unet, task, text=True, classes=False, aesthetic_score=False)
    control_fit.check_family(model, family, task)
    control_fit.check_pairs(model, [name for name, _ in pairs])
    for name, mode in pairs:
        control_fit.mode_number(name, mode, ControlConfig.from_hf(resolve.configs(name, CONTROL)[CONTROL], name))


def load(
    texts: Sequence[str], unet: UNetConfig, vae: VAEConfig, where: str, names: Sequence[str] = ()
) -> list[ControlSource]:
    """Returns the control networks that --control names, converted into the cache on first use.

    unet, vae: of the model; where: its name for messages. names: of their packages, where these exist already. Raises
    InputError for a network that does not fit the model.
    """
    sources = []
    for i, text in enumerate(texts):
        model, mode = divided_mode(text)
        folder = resolve.model_folder(model, part=CONTROL)
        name = names[i] if names else package_name(model, mode)
        request = {"name": name, "model": model, "mode": mode, "folder": str(folder)}
        source = of_request(request, unet)
        control_fit.check_fit(
            model, where, source.config, unet, source.config.misfit(unet, vae.latent_channels, vae.downsampling)
        )
        if read_model_json(folder).get("quantization"):
            raise InputError(f"{model} is quantized; convert it without --quantize, and use --compress here")
        control_fit.mode_number(model, mode, source.config)
        sources.append(source)
    return sources


def of_roles(roles: Iterable[str], recorded: Sequence[str], texts: Sequence[str], model: Model) -> list[ControlSource]:
    """Returns the control networks that an export was made from, where any of the roles is one's; else none.

    recorded: as the export was told them. texts: where they lie now, in this order; none: where they lay then. model:
    that they are for. InputError where there are more or fewer texts.
    """
    if not any(name.partition(":")[0] in ROLES for name in roles):
        return []
    if texts and len(texts) != len(recorded):
        raise InputError(f"the export was made from {len(recorded)} control networks, and --control names {len(texts)}")
    names = [package_name(*divided_mode(text)) for text in recorded]
    return load(texts or recorded, model.unet.config, model.vae.config, model.name, names)


def of_request(request: Mapping[str, Any], unet: UNetConfig) -> ControlSource:
    """Reads what `ControlSource.to_request` returned; unet: of the model, which completes its config."""
    folder = Path(request["folder"])
    config = ControlConfig.from_hf(network_configs(read_model_json(folder))[CONTROL], f"{folder}/model.json: {CONTROL}")
    return ControlSource(request["name"], request["model"], request["mode"], folder, config.completed_by(unet))
