"""Tiny random upscalers, as diffusers folders: the x4 upscaler of Stable Diffusion 2, and latent diffusion's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from tests.support import families
from tests.support.families import FAMILIES, UNETS, Config

_BETAS: Config = {
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "trained_betas": None,
}

X4: dict[str, Config] = {
    "text_encoder": FAMILIES["sd1"]["text_encoder"] | {"hidden_act": "gelu"},
    "unet": UNETS["upscaler"] | {"num_class_embeds": 400},
    "vae": FAMILIES["sdxl"]["vae"] | {"scaling_factor": 0.08333},
    "scheduler": _BETAS
    | {
        "_class_name": "DDIMScheduler",
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
    "low_res_scheduler": _BETAS | {"_class_name": "DDPMScheduler", "variance_type": "fixed_small"},
    "pipeline": {"_class_name": "StableDiffusionUpscalePipeline", "max_noise_level": 350},
}


def write(shapes: Mapping[str, Any], path: Path, **changes: Config) -> Path:
    """Writes a tiny x4 upscaler; `changes` are merged into the configs of its parts."""
    configs = {part: config | changes.get(part, {}) for part, config in X4.items()}
    unet = shapes["unets"]["upscaler"] | {"class_embedding.weight": [400, 128]}
    found = {"text_encoder": shapes["sd1"]["text_encoder"], "unet": unet, "vae": shapes["sdxl"]["vae"]}
    for part, shape in found.items():
        (path / part).mkdir(parents=True)
        _write_json(path / part / "config.json", configs[part])
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        save_file(families.weights(part, shape), path / part / f"{stem}.safetensors", {"format": "pt"})
    low_res = configs.pop("low_res_scheduler")
    families.write_rest(configs, path)
    return write_low_res(path, low_res)


def write_low_res(path: Path, scheduler: Config = X4["low_res_scheduler"]) -> Path:
    """Adds to a folder what noises the small picture."""
    (path / "low_res_scheduler").mkdir()
    _write_json(path / "low_res_scheduler" / "scheduler_config.json", scheduler)
    index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    index |= {"low_res_scheduler": ["diffusers", "DDPMScheduler"], "watermarker": [None, None]}
    _write_json(path / "model_index.json", index)
    return path


def picture(width: int, height: int) -> Image.Image:
    """A random small picture, smooth enough that neighbours resemble each other."""
    numbers = families.numbers("small picture", 4, 4, 3)
    coarse = Image.fromarray(np.clip(128 + 60 * numbers, 0, 255).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
