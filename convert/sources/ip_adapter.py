"""An IP-Adapter in a safetensors file, and the image encoder that it needs: which file or folder that is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import Tensor
from mlx_sd.networks.clip_vision import CLASS
from mlx_sd.networks.ip_adapter import BASE, FULL, PLUS

from ..files import file_kinds, hub
from ..files.diffusers_names import current_name
from . import diffusers_folder, single_network
from .checkpoint import Component
from .configs_from_shapes import Shapes
from .single_file_parts import Tensors, component, open_tensors

_HEAD = 64  # width of a head of the resampler
_HEADS = 16  # of every released image encoder of CLIP
_KEYS = re.compile(r"ip_adapter\.(\d+)\.to_k_ip\.weight")
_KEYS_AND_VALUES = re.compile(r"(image_proj\.layers\.\d+\.0\.)to_kv\.weight")
_IN_REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)/((?:[\w.-]+/)*[\w.-]+\.safetensors)")
ENCODER = "image_encoder"  # the folder of an image encoder
_FACES = "an IP-Adapter FaceID: it needs embeddings of faces by another program's networks, which is not supported"


def open_ip_adapter(name: str) -> Component:
    """Opens an IP-Adapter by its path, or by OWNER/NAME/PATH.safetensors on the hub.

    Raises InputError for FaceID, for pickles and for whatever else is no IP-Adapter.
    """
    path = _locate(name)
    stored = open_tensors(path)
    projection = {n.removeprefix("image_proj."): tensor for n, tensor in stored.items() if n.startswith("image_proj.")}
    if not projection or not any(_KEYS.fullmatch(n) for n in stored):
        kind = file_kinds.recognise(stored)
        raise InputError(f"{path} is no IP-Adapter" + (f": it {kind.verb} {kind.title}" if kind else ""))
    if any(n.startswith("perceiver_resampler.") for n in projection) or (
        "norm.weight" in projection and ("proj.weight" not in projection)
    ):
        raise InputError(f"{path} is {_FACES}; base, Plus and Full Face adapters see the image itself")
    weights = {}
    for n, tensor in stored.items():
        if (match := _KEYS_AND_VALUES.fullmatch(n)) and tensor.shape and tensor.shape[0] % 2 == 0:
            half = tensor.shape[0] // 2
            weights[f"{match[1]}to_k.weight"], weights[f"{match[1]}to_v.weight"] = (
                tensor.rows(0, half),
                tensor.rows(half, 2 * half),
            )
        else:
            weights[n] = tensor
    return component(path, _config(projection, stored, str(path)), weights)


def open_image_encoder(name: str | None, adapter: str, folder: Path | None) -> Component:
    """Opens the image encoder of an IP-Adapter: by its own name, or beside the adapter, or in a model's folder.

    folder: the diffusers folder of the model, where it is one. Raises InputError where there is none.
    """
    if name is not None:
        return _encoder(single_network.locate(name))
    file = _locate(adapter)
    homes = [file.parent / ENCODER, file.parent.parent / "models" / ENCODER]
    if "vit-h" in file.name.lower():  # SDXL's adapters of that name take the encoder of SD 1
        homes.reverse()
    homes += [folder / ENCODER] if folder else []
    for home in homes:
        if (home / "config.json").is_file():
            return _encoder(home)
    raise InputError(
        f"{adapter} sees images through an image encoder, and there is none in {homes[0]}; put its folder "
        f"{ENCODER} beside the adapter, or name it by --ip-encoder PATH"
    )


def _locate(name: str) -> Path:
    """Returns the path of a file, which is downloaded with its image encoder where it is named as on the hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        raise InputError(f"{path} is a folder; an IP-Adapter is a .safetensors file in it")
    match = _IN_REPOSITORY.fullmatch(name)
    if path.exists() or not match:
        return path
    repository, inside = match[1], match[2]
    parent = inside.rpartition("/")[0]
    home = f"models/{ENCODER}" if "vit-h" in inside.lower() else f"{parent}/{ENCODER}".strip("/")

    def select(files: list[str]) -> list[str]:
        """Picks the adapter and its encoder."""
        if inside not in files:
            raise InputError(f"{repository} has no file {inside} on the hub; check the spelling")
        return [inside, *(file for file in files if file in (f"{home}/config.json", f"{home}/model.safetensors"))]

    return hub.download(repository, select)[0] / inside


def _encoder(path: Path) -> Component:
    if path.is_dir():
        home = path if (path / "config.json").is_file() else path / ENCODER
        return diffusers_folder.component(home)
    stored = {current: tensor for n, tensor in open_tensors(path).items() if (current := current_name(n))}
    if "vision_model.pre_layrnorm.weight" not in stored or "visual_projection.weight" not in stored:
        raise InputError(f"{path} is no image encoder of CLIP in transformers' names (CLIPVisionModelWithProjection)")
    weights = {n: tensor for n, tensor in stored.items() if n.startswith(("vision_model.", "visual_projection."))}
    return component(path, _encoder_config(weights, str(path)), weights)


def _encoder_config(weights: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Returns the config of an image encoder with these weights; OpenAI's alone has the approximate activation."""
    s = Shapes(weights, where)
    width = s.dim("vision_model.embeddings.patch_embedding.weight", 0)
    patch = s.dim("vision_model.embeddings.patch_embedding.weight", 2)
    cells = s.dim("vision_model.embeddings.position_embedding.weight", 0) - 1
    return {
        "architectures": [CLASS],
        "hidden_size": width,
        "intermediate_size": s.dim("vision_model.encoder.layers.0.mlp.fc1.weight", 0),
        "num_hidden_layers": s.count("vision_model.encoder.layers"),
        "num_attention_heads": _HEADS,
        "patch_size": patch,
        "image_size": patch * round(cells**0.5),
        "projection_dim": s.dim("visual_projection.weight", 0),
        "hidden_act": "quick_gelu" if width in (768, 1024) else "gelu",
    }


def _config(projection: Tensors, stored: Tensors, where: str) -> dict[str, Any]:
    """Returns the config of an IP-Adapter; projection: its tensors without the prefix."""
    s = Shapes(projection, where)
    numbers = sorted(int(match[1]) for n in stored if (match := _KEYS.fullmatch(n)))
    keys = [stored[f"ip_adapter.{number}.to_k_ip.weight"] for number in numbers]
    if any(len(tensor.shape) != 2 for tensor in keys):
        raise InputError(f"{where}: its keys are no matrices")
    config: dict[str, Any] = {"context": keys[0].shape[1], "attentions": [tensor.shape[0] for tensor in keys]}
    config |= {"tokens": 0, "hidden": 0, "heads": 0, "layers": 0}
    if s.has("proj.weight"):
        tokens = s.dim("proj.weight", 0) // config["context"]
        return config | {"kind": BASE, "inputs": s.dim("proj.weight", 1), "tokens": tokens}
    if s.has("proj.3.weight"):
        return config | {"kind": FULL, "inputs": s.dim("proj.0.weight", 1)}
    hidden = s.dim("latents", 2)
    return config | {
        "kind": PLUS,
        "inputs": s.dim("proj_in.weight", 1),
        "tokens": s.dim("latents", 1),
        "hidden": hidden,
        "heads": max(1, s.dim("layers.0.0.to_q.weight", 0) // _HEAD),
        "layers": s.count("layers"),
    }
