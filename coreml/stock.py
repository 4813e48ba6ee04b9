"""The files by which Apple's Swift package coreai-models loads a folder of assets, beside the assets themselves.

Its `StableDiffusionPipeline.load(from:)` reads metadata.json and the tokenizer, and takes SD 1.x and 2.x only.
"""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_sd.networks.family import Family, Task, family_of, task_of

from .coreai.asset_files import SUFFIX

METADATA, TOKENIZER = "metadata.json", "tokenizer"
_ROLES = {"text_encoder": "TextEncoder", "unet": "Unet", "vae_decoder": "VAEDecoder", "vae_encoder": "VAEEncoder"}
_GUIDANCE, _STEPS = 7.5, 50  # the defaults of Apple's package
_PREDICTIONS = ("epsilon", "v_prediction")
_SCHEDULE = "scaled_linear"


def obstacle(networks: Mapping[str, Any], info: Mapping[str, Any]) -> str | None:
    """Returns why Apple's package cannot run a model, or None where it can.

    networks: part -> network. info: the content of info.json, for the first size and the batch.
    """
    unet, vae = networks["unet"].config, networks["vae"].config
    task = task_of(unet, vae.latent_channels)
    family = family_of(unet, task, text=True, classes=False, aesthetic_score=False)
    if family is Family.TOKENS:
        return "it makes pictures of latents, and those of this model are tokens"
    if family in (Family.SDXL, Family.REFINER):
        return "it has no pipeline for SDXL"
    if task is not Task.GENERATION:
        return f"it makes images from noise only, and this model {task.value}"
    if "timestep_cond" in info["packages"]["Unet"]["functions"]["main"]["inputs"]:
        return "it feeds no embedding of the guidance, which this distilled model takes"
    if info["options"].get("control"):
        return "it feeds no residuals of control networks, which this UNet takes"
    width, height = info["packages"]["Unet"]["functions"]["main"]["size"]
    if width != height:
        return f"it makes square pictures only, and the first size is {width}x{height}"
    if info["options"]["batch"] != 2:
        return "it runs both texts in one batch of 2"
    if vae.downsampling != 8:
        return f"it takes 8 pixels for each latent, and this autoencoder has {vae.downsampling}"
    if info["prediction"] not in _PREDICTIONS:
        return f"it knows no models that predict {info['prediction']}"
    schedule = info["scheduler"].get("beta_schedule", _SCHEDULE)
    if schedule != _SCHEDULE or info["scheduler"].get("rescale_betas_zero_snr"):
        return f"its noise schedule is always {_SCHEDULE}, and this model has another"
    return None


def metadata(name: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of metadata.json.

    name: of the folder. info: the content of info.json.
    """
    scheduler, scale = info["scheduler"], info["latents"]["scaling_factor"]
    return {
        "metadata_version": "0.2",
        "kind": "diffusion",
        "name": name,
        "assets": {role: f"{package}{SUFFIX}" for role, package in _ROLES.items() if package in info["packages"]},
        "diffusion": {
            "type": "stable-diffusion",
            "prediction_type": info["prediction"],
            "encoder_scale_factor": scale,
            "decoder_scale_factor": scale,
            "decoder_shift_factor": 0.0,
            "image_size": info["packages"]["Unet"]["functions"]["main"]["size"][0],
            "default_guidance_scale": _GUIDANCE,
            "default_steps": _STEPS,
            "scheduler": {
                "training_steps": scheduler.get("num_train_timesteps", 1000),
                "beta_start": scheduler.get("beta_start", 0.00085),
                "beta_end": scheduler.get("beta_end", 0.012),
                "beta_schedule": _SCHEDULE,
            },
        },
        "source": {"model_definition": "mlx", "model": info["model"]["name"]},
        "compression": info["compression"] and info["compression"]["name"],
        "compilation": {"date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"), "targets": []},
    }


def write(home: Path, name: str, info: Mapping[str, Any]) -> None:
    """Writes metadata.json into a folder."""
    (home / METADATA).write_text(json.dumps(metadata(name, info), indent=2) + "\n", encoding="utf-8")
