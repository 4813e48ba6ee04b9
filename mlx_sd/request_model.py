"""The model that a request names, checked and loaded, for whatever makes pictures."""

import os

from . import control_fit, hires_upscaler, model_checks
from .pipeline import StableDiffusion
from .request import Request


def check(request: Request) -> None:
    """Raises InputError for what configs alone tell about a request, before anything large is converted or loaded."""
    if not request.coreml:
        model_checks.check_task(request)
        control_fit.check_pairs(request.model, [control.model for control in request.controls])
    hires_upscaler.check(request)


def load(
    request: Request,
    lora_folder: str | os.PathLike[str] | None = None,
    lora_strict: bool = False,
    low_memory: bool = False,
) -> StableDiffusion:
    """Loads the model of a request in MLX, with its LoRAs and its autoencoder; InputError where these do not fit.

    lora_folder, lora_strict, low_memory: as of `StableDiffusion.load`.
    """
    return StableDiffusion.load(
        request.model,
        request.dtype,
        [(lora.path, lora.scale, lora.blocks) for lora in request.loras],
        request.quantize,
        lora_folder=lora_folder,
        lora_strict=lora_strict,
        vae=request.vae,
        lora_mode=request.lora_mode or "merge",
        low_memory=low_memory,
    )


def load_refiner(request: Request, low_memory: bool = False) -> StableDiffusion | None:
    """Loads the refiner of a request, None where it has none."""
    if request.refiner is None:
        return None
    return StableDiffusion.load(request.refiner, request.dtype, low_memory=low_memory)
