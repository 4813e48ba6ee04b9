"""What a folder is that is neither a diffusers folder nor a converted one, and the way out for each."""

from pathlib import Path

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import read_json

from .refusals import first, is_pickle

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# Fields of a config.json -> what the folder is
_PARTS = {
    "UNet2DConditionModel": "a UNet",
    "UNet2DModel": "a UNet",
    "AutoencoderKL": "a VAE",
    "VQModel": "a VAE",
    "ControlNetModel": "a ControlNet",
    "CLIPTextModel": "a text encoder",
    "CLIPTextModelWithProjection": "a text encoder",
}


def sentence(folder: Path) -> str:
    """Returns the end of an error whose subject is a folder that is expected to hold a checkpoint."""
    names = sorted(path.name for path in folder.iterdir())
    files = [name for name in names if name.endswith(".safetensors")]
    if not names:
        return "is an empty folder; give the folder of a checkpoint"
    if (folder / "model.json").is_file():
        return "is converted already; mlx_sd loads it as it is"
    if "unet.safetensors" in names:
        return "looks like a converted folder, but its model.json is missing; convert the checkpoint again"
    if folder.suffix == ".mlpackage":
        return "is a Core ML package; give the folder around it to mlx_sd.generate's --coreml"
    if any(name.endswith((".mlpackage", ".mlmodelc")) for name in names):
        return "holds Core ML packages; give it to mlx_sd.generate's --coreml, and here the checkpoint they came from"
    if "adapter_config.json" in names or "pytorch_lora_weights.safetensors" in names:
        return "is the folder of a LoRA; give it by --lora beside the checkpoint it is for"
    if part := _part(folder):
        return f"is {part} alone; give the folder of the whole checkpoint, with model_index.json"
    pictures = [name for name in names if name.lower().endswith(_IMAGES)]
    if len(pictures) > len(names) // 2:
        return f"is a folder of pictures ({first(pictures, 2)}), not a checkpoint"
    if not files and (pickles := [name for name in names if is_pickle(name)]):
        return f"has only pickled weights ({first(pickles)}); get the safetensors version"
    hint = f"; give --model one of its files: {first(files, 8)}" if files else _inside(folder)
    return f"has neither model_index.json (diffusers) nor model.json (converted){hint}"


def _part(folder: Path) -> str | None:
    """Returns which part of a checkpoint lies in a folder of its own, by its config."""
    try:
        config = read_json(folder / "config.json")
    except InputError:
        return None
    architectures = config.get("architectures")
    names = [config.get("_class_name"), *(architectures if isinstance(architectures, list) else [])]
    return next((_PARTS[name] for name in names if isinstance(name, str) and name in _PARTS), None)


def _inside(folder: Path) -> str:
    """Returns a hint at checkpoints that lie one folder further down."""
    inner = [path for name in ("model_index.json", "model.json") for path in folder.glob(f"*/{name}")]
    return f"; did you mean {sorted(inner)[0].parent}?" if inner else ""
