"""The model that a request names, loaded: in MLX, or Core ML packages."""

import argparse
from pathlib import Path

from .. import completion, request_model
from ..checkpoint.model import Model
from ..core.errors import InputError
from ..pipeline import StableDiffusion
from ..request import Request


def load(arguments: argparse.Namespace, request: Request) -> tuple[StableDiffusion, StableDiffusion | None]:
    """Returns the model of a request and its refiner, None where it has none."""
    request_model.check(request)
    if request.coreml:
        sd = _packaged(arguments, request)
    else:
        sd = request_model.load(request, arguments.lora_folder, arguments.lora_strict, arguments.low_memory)
    return sd, request_model.load_refiner(request, arguments.low_memory)


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
    if arguments.low_memory:
        raise InputError("--low-memory is of networks in MLX; Core ML loads its packages by itself; leave it out")
    for field in ("model", "dtype", "tile", "loras", "quantize", "vae", "lora_mode", "tuning"):
        if getattr(arguments, field) is not None:
            flag = "lora" if field == "loras" else field
            raise InputError(f"--{flag} was decided when the packages were written; leave it out with --coreml")
    return StableDiffusion(drive.load(Path(request.coreml or "")))
