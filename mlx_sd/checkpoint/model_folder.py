"""The folder format that `convert` writes: model.json, one safetensors file per network, and the tokenizers."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from ..core.errors import InputError
from ..core.files import Tensor, read_json, tensors
from ..networks.classes import ClassEmbedder
from ..networks.clip import TextEncoder
from ..networks.clip_vision import ImageEncoder, VisionConfig
from ..networks.configs import ClassConfig, TextConfig, TinyConfig, vae_config
from ..networks.control import ControlNet
from ..networks.control_config import ControlConfig
from ..networks.ip_adapter import IPAdapter, IPAdapterConfig
from ..networks.t2i_adapter import AdapterConfig, T2IAdapter
from ..networks.tiny_autoencoder import TinyAutoencoder
from ..networks.tokens import TokenUNet
from ..networks.unet import UNet
from ..networks.unet_config import UNetConfig
from ..networks.vae import Autoencoder
from ..prompts.tokenizer import Tokenizer
from .network_names import IMAGE_ENCODER, IP_ADAPTER, T2I_ADAPTER

AGAIN = "; convert the checkpoint again"  # the end of messages about a folder that is damaged
FORMAT, VERSION = "mlx-sd", 3

TEXT = ("text_encoder", "text_encoder_2")
CONTROL = "control"  # of a folder that holds a ControlNet alone
DIFFERENCES = "differences"  # in model.json: a ControlNet's parameters that are differences from its UNet's
_SCALES = {"StableDiffusionUpscalePipeline": 0.08333, "LDMSuperResolutionPipeline": 1.0}
# Pipelines of diffusers that take the scheduler's config as it is
_UNMENDED = ("StableDiffusionXL", "StableDiffusionUpscale", "StableDiffusionInstructPix2Pix")
PIXELS = ("DDPMPipeline", "DDIMPipeline")  # of diffusers: without an autoencoder
# How parameters of the UNet began in versions 1 and 2 -> how they begin since; the first rule that fits decides.
_RENAMED = (
    ("inputs.0.0.conv.", "down.stages.0.0."),
    ("inputs.", "down.stages."),
    ("middle.", "middle.layers."),
    ("outputs.", "up.stages."),
    ("time.", "embedding.timestep."),
    ("classes.", "embedding.classes."),
    ("added.", "embedding.added."),
)


def read_model_json(folder: Path) -> dict[str, Any]:
    """Reads a folder's model.json; InputError where this version cannot read it."""
    try:
        about = read_json(folder / "model.json")
    except InputError as error:
        raise InputError(f"{error}{AGAIN}") from None
    if about.get("format") != FORMAT:
        raise InputError(f"{folder}/model.json is not of the format {FORMAT}{AGAIN}")
    version = about.get("version")
    if version == 1:  # it had no hashes of its own files
        about |= {"files": {}}
    if version not in range(1, VERSION + 1):
        newer = isinstance(version, int) and version > VERSION
        raise InputError(
            f"{folder}/model.json is of version {version}, this mlx-sd reads 1 to {VERSION}; "
            f"{'update mlx-sd, or ' if newer else ''}convert the checkpoint again"
        )
    return about


def parameter_name(part: str, name: str, version: int) -> str:
    """Returns the name that a parameter of network `part` has today, by its name in a folder of that version."""
    if part == "unet" and version < 3:
        for before, after in _RENAMED:
            if name.startswith(before):
                return after + name.removeprefix(before)
    return name


def network_tensors(folder: Path, part: str, version: int) -> dict[str, Tensor]:
    """Returns the tensors of a network's file, unread, by the names that its parameters have today."""
    file = folder / f"{part}.safetensors"
    if not file.is_file():
        raise InputError(f"{file} is missing{AGAIN}")
    return {parameter_name(part, tensor.name, version): tensor for tensor in tensors(file)}


def network_configs(about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the networks' configs as the checkpoint's pipeline uses them; two pipelines scale by a constant."""
    scale = _SCALES.get(str(about["pipeline"].get("_class_name")))
    configs = dict(about["networks"])
    return configs if scale is None else configs | {"vae": configs["vae"] | {"scaling_factor": scale}}


def scheduler_config(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scheduler's config as the checkpoint's pipeline uses it."""
    name = str(about["pipeline"].get("_class_name", ""))
    if name.startswith("StableDiffusion") and not name.startswith(_UNMENDED):
        # Old configs leave these out or have them wrong; diffusers' pipelines mend them in the same way.
        return {**about["scheduler"], "steps_offset": 1, "clip_sample": False}
    return dict(about["scheduler"])


def model_hash(about: Mapping[str, Any]) -> str:
    """Returns 12 digits that tell weights apart: of the source's hashes, the merged adapters and the quantization."""
    identity: list[Any] = sorted(about["source"].get("sha256", {}).items())
    identity += [[lora["sha256"], lora["scale"], *lora.get("blocks", [])] for lora in about.get("loras", [])]
    identity += [about["quantization"]] if about.get("quantization") else []
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


def checkpoint_hash(about: Mapping[str, Any]) -> str | None:
    """Returns the SHA-256 of the single file that a model was converted from; None for a folder's many files."""
    files = about["source"].get("sha256", {})
    return str(*files.values()) if len(files) == 1 and not any("/" in name for name in files) else None


def tokenizers(folder: Path, networks: Mapping[str, Any]) -> tuple[Tokenizer, ...]:
    """Loads the tokenizers, one for each text encoder, whose config says how many tokens a chunk has."""
    return tuple(
        Tokenizer.load(folder / part.replace("text_encoder", "tokenizer"), networks[part].config.tokens)
        for part in TEXT
        if part in networks
    )


def build(part: str, config: Mapping[str, Any], where: str) -> nn.Module:
    """Builds the network of a Hugging Face config, without its weights; InputError names `where` a field is wrong.

    part: "unet", "control", "vae", "text_encoder", "text_encoder_2", "class_embedder", "t2i_adapter",
    "ip_adapter" or "image_encoder".
    """
    if part == "unet":
        unet = UNetConfig.from_hf(config, where)
        return UNet(unet) if unet.token_states is None else TokenUNet(unet)
    if part == CONTROL:
        return ControlNet(ControlConfig.from_hf(config, where))
    if part == "vae":
        read = vae_config(config, where)
        return TinyAutoencoder(read) if isinstance(read, TinyConfig) else Autoencoder(read)
    if part == T2I_ADAPTER:
        return T2IAdapter(AdapterConfig.from_hf(config, where))
    if part == IP_ADAPTER:
        return IPAdapter(IPAdapterConfig.from_hf(config, where))
    if part == IMAGE_ENCODER:
        return ImageEncoder(VisionConfig.from_hf(config, where))
    if part in TEXT:
        return TextEncoder(TextConfig.from_hf(config, where))
    if part == "class_embedder":
        return ClassEmbedder(ClassConfig.from_hf(config, where))
    raise InputError(f"{where}: no network is called {part}")


def missing_network(configs: Mapping[str, Mapping[str, Any]], pipeline: Mapping[str, Any]) -> str | None:
    """Returns the name of a network that a model with these configs lacks, or None."""
    if "unet" not in configs:
        return "unet"
    if "vae" not in configs and pipeline.get("_class_name") not in PIXELS:
        return "vae"
    takes_context = configs["unet"].get("_class_name") != "UNet2DModel"
    return "text_encoder" if takes_context and not configs.keys() & {*TEXT, "class_embedder"} else None


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's parameters by name."""
    flat: Any = tree_flatten(network.parameters())
    return {name: tuple(array.shape) for name, array in flat}
