"""An x4 upscaler between the two passes of hires fix: checked by its configs, and loaded once beside the model."""

import mlx.core as mx
from PIL import Image

from . import model_checks, resolve
from .checkpoint.model import Model
from .checkpoint.model_folder import model_hash, read_model_json
from .core.errors import InputError
from .hires_setting import MODES
from .load import load
from .networks.family import Task
from .request import Request


def name_of(request: Request) -> str | None:
    """Returns the name of the upscaler that a request's `hires_mode` is; None for the other modes, without `hires`."""
    return None if request.hires is None or request.hires_mode in (None, *MODES) else request.hires_mode


def check(request: Request) -> None:
    """Raises InputError where a mode of hires fix is no x4 upscaler; configs alone are read."""
    name = name_of(request)
    if name is not None and model_checks.task_of_checkpoint(name) is not Task.UPSCALING:
        raise InputError(
            f"--hires-mode {name} is no x4 upscaler; name one, such as stabilityai/stable-diffusion-x4-upscaler, or "
            f"one of {', '.join(MODES)}"
        )


def digest(model: Model, request: Request) -> str | None:
    """Returns the hash of the upscaler's weights, None without one; what is not converted yet is converted.

    InputError for a checkpoint that is no upscaler.
    """
    name = name_of(request)
    if name is None:
        return None
    check(request)
    return model_hash(read_model_json(resolve.model_folder(name, variant=_variant(model))))


def loaded(model: Model, request: Request) -> Model | None:
    """Returns the upscaler of a completed request, which is loaded once beside the model; None without one."""
    name = name_of(request)
    if name is None:
        return None
    key = f"{name} of --hires-mode"
    if (upscaler := model.networks_beside.get(key)) is None:
        upscaler = model.networks_beside[key] = load(name, model.dtype, low_memory=model.low_memory is not None)
    result: Model = upscaler
    return result


def request_for(upscaler: Model, request: Request, picture: Image.Image) -> Request:
    """Returns the request that enlarges a picture: with its prompts, its seed, and else the upscaler's own defaults."""
    prompted = bool(upscaler.text_encoders)
    return Request(
        prompt=request.prompt if prompted else None,
        negative=request.negative if prompted else None,
        model=upscaler.name,
        init_image=picture,
        seed=request.seed,
        rng=request.rng,
        prompt_style=request.prompt_style,
        tile=request.tile,
    )


def _variant(model: Model) -> str | None:
    return "fp16" if model.dtype == mx.float16 else None
