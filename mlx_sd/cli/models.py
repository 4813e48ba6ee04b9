"""The model that a request names, loaded: in MLX, or Core ML packages."""

import argparse
from pathlib import Path

from .. import completion, control_fit, hires_upscaler, model_checks
from ..checkpoint.model import Model
from ..core.errors import InputError
from ..pipeline import StableDiffusion
from ..request import Request


def load(arguments: argparse.Namespace, request: Request) -> tuple[StableDiffusion, StableDiffusion | None]:
    """Returns the model of a request and its refiner, None where it has none."""
    if not request.coreml:  # before anything large is converted or loaded
        model_checks.check_task(request)
        control_fit.check_pairs(request.model, [control.model for control in request.controls])
    hires_upscaler.check(request)
    sd = _packaged(arguments, request) if request.coreml else _loaded(arguments, request)
    return sd, StableDiffusion.load(request.refiner, request.dtype) if request.refiner else None


def _loaded(arguments: argparse.Namespace, request: Request) -> StableDiffusion:
    return StableDiffusion.load(
        request.model,
        request.dtype,
        [(lora.path, lora.scale, lora.blocks) for lora in request.loras],
        request.quantize,
        lora_folder=arguments.lora_folder,
        lora_strict=arguments.lora_strict,
        vae=request.vae,
        lora_mode=request.lora_mode or "merge",
    )


def time_words(model: Model, request: Request) -> list[str]:
    """Returns a line with the predicted time of a completed request's picture, where assets of Core AI make it."""
    if not request.coreml:
        return []
    from coreml import drive

    count = len(completion.table_of(model, request).rows)
    full = len(list(request.deepcache.full_evaluations(count))) if request.deepcache else count
    size = (request.width or 0, request.height or 0)
    return drive.time_words(model, full, count - full, size, request.controls)


def _packaged(arguments: argparse.Namespace, request: Request) -> StableDiffusion:
    """Returns the model of Core ML packages; InputError for flags whose values were decided at the export."""
    from coreml import drive  # coreml builds on this package

    if arguments.speed:
        raise InputError(
            "--speed is of networks in MLX; with --coreml choose --sampler, --steps and --deepcache yourself"
        )
    for field in ("model", "dtype", "tile", "loras", "quantize", "vae", "lora_mode"):
        if getattr(arguments, field) is not None:
            flag = "lora" if field == "loras" else field
            raise InputError(f"--{flag} was decided when the packages were written; leave it out with --coreml")
    return StableDiffusion(drive.load(Path(request.coreml or "")))
