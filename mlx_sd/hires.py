"""Hires fix: a picture is made small, enlarged, and changed a little at the larger size, as in A1111's web UI."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .core.errors import InputError

if TYPE_CHECKING:
    import mlx.core as mx

    from .checkpoint.model import Model
    from .request import Request
    from .sampling.table import Table

STRENGTH = 0.7
IMAGE_MODES = ("lanczos",)
LATENT_MODES = (
    "latent",
    "latent-antialiased",
    "latent-bicubic",
    "latent-bicubic-antialiased",
    "latent-nearest",
    "latent-nearest-exact",
)
_LARGEST = 8.0
_TEXT = re.compile(r"(?P<scale>\d*\.?\d+)(?::(?P<steps>\d*)(?::(?P<strength>\d*\.?\d+))?)?")


@dataclass(frozen=True)
class Hires:
    """How much larger, in how many steps (None: as many as the first pass), and how much of the picture changes."""

    scale: float
    steps: int | None = None
    strength: float = STRENGTH

    def __post_init__(self) -> None:
        if not 1 < self.scale <= _LARGEST:
            raise InputError(f"--hires enlarges by more than 1, up to {_LARGEST:g} times, not {self.scale:g}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"the steps of --hires are from 1 up, not {self.steps}")
        if not 0 < self.strength <= 1:
            raise InputError(f"the strength of --hires is above 0, to 1, not {self.strength:g}")

    def __str__(self) -> str:
        return f"{self.scale:g}:{'' if self.steps is None else self.steps}:{self.strength:g}"


class SecondPass(NamedTuple):
    """What the second pass needs: its requests' changes, and its rows."""

    changes: dict[str, Any]
    table: Table


def parse(value: Any) -> Hires:
    """Reads what `hires=` and `--hires` take: 2, "2", "2:15", "2::0.5", "2:15:0.5" or a Hires."""
    if isinstance(value, Hires):
        return value
    match = _TEXT.fullmatch(f"{value:g}" if isinstance(value, (int, float)) else str(value).strip())
    if match is None or isinstance(value, bool):
        raise InputError(f"--hires takes SCALE[:STEPS[:STRENGTH]], for example 2 or 2:15:0.5, not {value!r}")
    steps, strength = match["steps"], match["strength"]
    return Hires(float(match["scale"]), int(steps) if steps else None, float(strength) if strength else STRENGTH)


def size(model: Model, request: Request, hires: Hires) -> tuple[int, int]:
    """Returns (width, height) of the second pass, in whole multiples of what the model makes."""
    multiple = model.vae.config.downsampling * model.unet.config.size_multiple
    width, height = (int((side or 0) * hires.scale) // multiple * multiple for side in (request.width, request.height))
    return width, height


def second_pass(model: Model, request: Request) -> SecondPass | None:
    """Returns the second pass of a completed request, None without one; InputError where it cannot be.

    Of h steps and strength d, the schedule has int(h / d) steps, of which the last h run.
    """
    from .sampling import samplers

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
    width, height = size(model, request, hires)
    return SecondPass({"width": width, "height": height}, table)


def enlarged(model: Model, latents: mx.array, request: Request, width: int, height: int) -> mx.array:
    """Returns the latents (N, h, w, C) of the first pass for the second one's size in pixels."""
    import mlx.core as mx

    from .codec import decode, encode, to_image
    from .tasks.enlarging import enlarge

    factor, mode = model.vae.config.downsampling, request.hires_mode or LATENT_MODES[0]
    if mode in LATENT_MODES:
        return enlarge(latents, (height // factor, width // factor), mode)
    from PIL import Image

    pictures = [to_image(decode(model, one[None], request.tile)[0]) for one in latents]
    larger = [picture.resize((width, height), Image.Resampling.LANCZOS) for picture in pictures]
    return mx.concatenate([encode(model, picture, request.tile) for picture in larger])
