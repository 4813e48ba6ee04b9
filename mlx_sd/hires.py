"""Hires fix: a picture is made small, enlarged, and changed a little at the larger size, as in A1111's web UI."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
from PIL import Image

from . import hires_upscaler, memory
from .checkpoint.model import Model
from .codec import decode, encode, to_image
from .completion import complete
from .core.errors import InputError
from .hires_setting import LATENT_MODES, Hires
from .request import Request
from .sampling import samplers
from .sampling.table import Table
from .tasks.enlarging import enlarge


class SecondPass(NamedTuple):
    """What the second pass needs: its requests' changes, and its rows."""

    changes: dict[str, Any]
    table: Table


def size(model: Model, request: Request, hires: Hires) -> tuple[int, int]:
    """Returns (width, height) of the second pass, in whole multiples of what the model makes."""
    multiple = model.vae.config.downsampling * model.unet.config.size_multiple
    width, height = (int((side or 0) * hires.scale) // multiple * multiple for side in (request.width, request.height))
    return width, height


def second_pass(model: Model, request: Request) -> SecondPass | None:
    """Returns the second pass of a completed request, None without one; InputError where it cannot be.

    Of h steps and strength d, the schedule has int(h / d) steps, of which the last h run.
    """
    hires = request.hires
    if hires is None:
        if request.hires_mode is not None:
            raise InputError("--hires-mode is of --hires; give both")
        return None
    for name, flag in (("init_image", "--init-image"), ("mask", "--mask"), ("refiner", "--refiner")):
        if getattr(request, name) is not None:
            raise InputError(f"--hires makes a picture of noise larger; leave {flag} or --hires out")
    if model.upscales or model.additional_channels or model.sizes:
        raise InputError("--hires is for models that make pictures of noise in any size; leave it out")
    if "=" in (request.schedule or ""):
        raise InputError("--hires needs a schedule for another number of steps; name one in the place of the list")
    steps = hires.steps or request.steps or 1
    total = int(steps / min(hires.strength, 0.999))
    table = samplers.table(
        model.scheduler, request.sampler or "", request.schedule or "", request.options, total, total - steps
    )
    if request.tgate:
        request.tgate.check(len(table.rows))
    if request.guidance_interval:
        request.guidance_interval.check(max(table.steps))
    width, height = size(model, request, hires)
    return SecondPass({"width": width, "height": height}, table)


def upscaler_of(model: Model, request: Request, size: tuple[int, int]) -> Model | None:
    """Returns the upscaler of a completed request, loaded; None where its mode is no upscaler.

    size: (width, height) of the first pass. InputError where it cannot enlarge such a picture, or where the machine has
    too little memory for it.
    """
    upscaler = hires_upscaler.loaded(model, request)
    if upscaler is None:
        return None
    completed = complete(upscaler, hires_upscaler.request_for(upscaler, request, Image.new("RGB", size)))
    memory.check(
        upscaler,
        completed.width or 0,
        completed.height or 0,
        denoise_tile=completed.denoise_tile or 0,
        tile=completed.tile,
        beside=memory.weights(model),
        advice="choose a smaller --width and --height, or another --hires-mode",
    )
    return upscaler


def enlarged(
    model: Model,
    latents: mx.array,
    request: Request,
    width: int,
    height: int,
    upscale: Callable[[Sequence[Image.Image]], list[Image.Image]] | None = None,
) -> mx.array:
    """Returns the latents (N, h, w, C) of the first pass for the second one's size in pixels.

    upscale: makes the N decoded pictures larger, before they are brought to that size by Lanczos.
    """
    factor, mode = model.vae.config.downsampling, request.hires_mode or LATENT_MODES[0]
    if mode in LATENT_MODES:
        return enlarge(latents, (height // factor, width // factor), mode)
    pictures = [to_image(decode(model, latent[None], request.tile)[0]) for latent in latents]
    pictures = upscale(pictures) if upscale else pictures
    larger = [picture.resize((width, height), Image.Resampling.LANCZOS) for picture in pictures]
    return mx.concatenate([encode(model, picture, request.tile) for picture in larger])
