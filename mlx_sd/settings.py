"""What decides a picture beside model, prompt and seed: filled in from the checkpoint, and checked."""

import math
import warnings
from dataclasses import dataclass

from .checkpoint.model import Model
from .core.errors import InputError
from .reuse.deepcache import Policy
from .reuse.freeu import FreeU
from .reuse.tgate import TGate
from .sampling import samplers
from .sampling.schedules import step_count
from .sampling.table import Options, Table

# Where nobody says otherwise
STEPS, STEPS_UPSCALER, STEPS_LDM = 25, 75, 100  # the last of latent diffusion's super-resolution
GUIDANCE, GUIDANCE_XL, GUIDANCE_UPSCALER, GUIDANCE_CLASSES = 7.5, 5.0, 9.0, 3.0
TILE = 128  # latents a side that an upscaler's UNet is given at once, at least

_FEW = 8  # evaluations, as of checkpoints distilled to few steps


@dataclass(frozen=True)
class Settings:
    """Complete and checked; `complete` makes them."""

    steps: int
    guidance: float
    guidance_rescale: float
    sampler: str
    schedule: str
    options: Options  # of the sampler
    width: int
    height: int
    clip_skip: int
    noise_level: int | None  # of an upscaler's small picture
    denoise_tile: int  # latents a side that the UNet is given at once; 0 is any number
    strength: float | None  # how much of an image's noise is added anew; None starts from noise alone
    deepcache: Policy | None
    tgate: TGate | None
    freeu: FreeU | None


def complete(
    model: Model,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    guidance_rescale: float = 0.0,
    sampler: str | None = None,
    schedule: str | None = None,
    options: Options | None = None,
    width: int | None = None,
    height: int | None = None,
    clip_skip: int = 0,
    noise_level: int | None = None,
    denoise_tile: int | None = None,
    strength: float | None = None,
    deepcache: Policy | None = None,
    tgate: TGate | None = None,
    freeu: FreeU | None = None,
) -> Settings:
    """Fills in what is None from the checkpoint and checks everything; InputError says what is wrong."""
    config = model.unet.config
    guidance = _guidance(model) if guidance is None else guidance
    if guidance > 1 and _guidance(model) == 1:
        raise InputError(f"this model knows nothing to steer away from: guidance is at most 1, not {guidance}")
    if not math.isfinite(guidance):
        raise InputError(f"guidance must be a finite number, not {guidance}")
    if not 0 <= guidance_rescale <= 1:
        raise InputError(f"guidance rescale must be from 0 to 1, not {guidance_rescale}")
    width, height = _size(model, width, height)
    least = min((encoder.config.layers for encoder in model.text_encoders), default=1)
    if not 0 <= clip_skip < least:
        raise InputError(f"clip skip must be from 0 to {least - 1}, not {clip_skip}")
    branches = model.unet.branches
    if deepcache and deepcache.branch not in branches:
        has = f"it has {branches[0]} to {branches[-1]}" if len(branches) > 1 else f"it has {[*branches] or 'none'}"
        raise InputError(f"there is no DeepCache branch {deepcache.branch} in this UNet; {has}")
    if tgate and not config.takes_context:
        raise InputError("this UNet looks at no prompt, so T-GATE has nothing to keep; leave --tgate out")
    freeu = freeu.for_family(model.family) if freeu else None
    sampler, schedule, options = samplers.choose(model.scheduler, sampler, schedule, options)
    fixed = step_count(schedule)
    if None not in (steps, fixed) and steps != fixed:
        raise InputError(f"the schedule given is of {fixed} steps, not {steps}; leave --steps out")
    steps = fixed or (_steps(model, sampler) if steps is None else steps)
    if strength is not None:
        _check_strength(strength, steps)
    if model.low_res:
        noise_level = model.low_res.level(noise_level)
    elif noise_level is not None:
        raise InputError(f"the noise level is of x4 upscalers; {model.name} is none, so leave out --noise-level")
    if denoise_tile is None:
        denoise_tile = max(TILE, config.sample_size) if model.upscales else 0
    if denoise_tile and denoise_tile < 2 * config.downsampling:
        raise InputError(
            f"tiles must be at least {2 * config.downsampling} latents a side for this UNet, not {denoise_tile}"
        )
    chosen = Settings(
        steps,
        guidance,
        guidance_rescale,
        sampler,
        schedule,
        options,
        width,
        height,
        clip_skip,
        noise_level,
        denoise_tile,
        strength,
        deepcache,
        tgate,
        freeu,
    )
    evaluations = len(table(model, chosen).rows)  # built here to check the steps, too
    if deepcache:
        deepcache.check(evaluations)
    if tgate:
        tgate.check(evaluations)
    if deepcache and evaluations <= _FEW:
        warnings.warn(
            f"in {evaluations} evaluations little repeats itself: DeepCache gains little there and costs quality; "
            "leave it out",
            stacklevel=3,
        )
    return chosen


def table(model: Model, chosen: Settings) -> Table:
    """The rows of the sampler; of strength s, the last int(steps * s) steps, as in diffusers."""
    begin = None if chosen.strength is None else chosen.steps - int(chosen.steps * chosen.strength)
    return samplers.table(model.scheduler, chosen.sampler, chosen.schedule, chosen.options, chosen.steps, begin)


def _check_strength(strength: float, steps: int) -> None:
    if not 0 < strength <= 1:
        raise InputError(f"strength must be above 0, to 1, not {strength}")
    if int(steps * strength) < 1 <= steps:
        least = math.ceil(1000 / steps) / 1000
        raise InputError(f"strength {strength} leaves none of {steps} steps; give {least:g} or more, or more steps")


def _steps(model: Model, sampler: str) -> int:
    if sampler == "ddpm" and not model.text_encoders:  # whose few steps leave noise
        return model.scheduler.num_train_timesteps
    if model.upscales:
        return STEPS_UPSCALER if model.low_res else STEPS_LDM
    return STEPS


def _guidance(model: Model) -> float:
    """Where nobody says otherwise; 1 is none, for a model that can do without a prompt or a class only."""
    if model.text_encoders and model.upscales:
        return GUIDANCE_UPSCALER
    if model.text_encoders:
        return GUIDANCE if model.unet.config.added_time_dims is None else GUIDANCE_XL
    return GUIDANCE_CLASSES if model.classes and model.classes.null is not None else 1.0


def _size(model: Model, width: int | None, height: int | None) -> tuple[int, int]:
    factor, sizes = model.vae.config.downsampling, model.sizes
    native = sizes[0] if sizes else (model.unet.config.sample_size * factor,) * 2
    width, height = native[0] if width is None else width, native[1] if height is None else height
    multiple = factor * model.unet.config.size_multiple
    for name, value in (("width", width), ("height", height)):
        if value < multiple or value % multiple:
            raise InputError(f"{name} must be a positive multiple of {multiple}, not {value}")
    if sizes and (width, height) not in sizes:
        made = ", ".join(f"{w} x {h}" for w, h in sizes)
        raise InputError(f"this model makes pictures of {made} and no other size, not of {width} x {height}")
    return width, height
