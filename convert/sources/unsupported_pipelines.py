"""Pipelines of diffusers that are not supported; the error says what each is for."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from mlx_sd.checkpoint.model_folder import PIXELS

# The class of a pipeline -> its task, the first that fits.
_TASKS = {
    r"(Audio|MusicLDM|StableAudio|DanceDiffusion).*": "sound",
    r".*(Video|AnimateDiff|I2VGen).*": "video",
    r".*(ShapE|Img23D).*": "things in three dimensions",
    r".*(UnCLIP|unCLIP|ImageVariation|Kandinsky|Cascade|Wuerstchen).*": "pictures from embeddings of pictures",
    r".*Depth2Img.*": "pictures from a map of depths",
    r"LDMTextToImagePipeline": "pictures from a prompt, by a text encoder (BERT) that is not here",
    r"(DiT|Flux|PixArt|StableDiffusion3|Sana|HunyuanDiT|Lumina).*": "pictures by a transformer in place of a UNet",
    r"(ScoreSdeVe|KarrasVe).*": "pictures by a network (NCSN++) that is not here",
}


def problem(index: Mapping[str, Any], parts: Collection[str]) -> str | None:
    """Returns why a model_index.json with these parts is of no model that is read here; None where it is of one."""
    name = str(index.get("_class_name", ""))
    for pattern, task in _TASKS.items():
        if re.fullmatch(pattern, name):
            return f"{name} is for {task}, which is not supported"
    if "unet" not in parts:
        return "no unet, so this is not a Stable Diffusion checkpoint"
    if name not in PIXELS and not {"vae", "vqvae"} & {*parts}:
        return "no vae, so this is not a Stable Diffusion checkpoint"
    return None
