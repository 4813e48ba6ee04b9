"""Fills in and checks what a request leaves open: the checkpoint's defaults, the sampler's, the image's size."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from . import adapters, controls, hires_upscaler, image_prompts, metadata, seeds, token_plan
from .checkpoint.lora import Lora
from .checkpoint.model import Model
from .conditions import check_gate, check_guided_steps, check_prompts, check_subject
from .core.errors import InputError
from .distilled import distilled_of
from .image_settings import IMAGE_GUIDANCE, PADDING, STRENGTH
from .metadata.to_a1111 import lora_hashes
from .networks.family import Family, Task
from .request import (
    DENOISE_TILE,
    GUIDANCE,
    GUIDANCE_CLASSES,
    GUIDANCE_EMBEDDED,
    GUIDANCE_SDXL,
    GUIDANCE_TOKENS,
    GUIDANCE_UPSCALER,
    MODEL,
    SOLVER,
    STEPS,
    STEPS_SUPER_RESOLUTION,
    STEPS_UPSCALER,
    Request,
)
from .reuse.presets import Preset, preset
from .sampling import samplers
from .sampling.schedules import step_count
from .sampling.table import Table
from .schedule_file import read_schedule
from .tasks import images, instruction, painting, upscaling
from .tasks.start import FromNoise, StartingPoint
from .tasks.token_canvas import painted_tokens
from .tuning import apply

_FEW = 8  # evaluations, as of checkpoints distilled to few steps
_STRONG = 2.5  # guidance above which pictures of models that were distilled without it are burnt


def starting_point(model: Model, request: Request, channels: mx.array | None = None) -> StartingPoint:
    """Opens what a request begins with: its image and mask, a small image for upscalers, or noise.

    channels: (1 or N, h, w, K) shown to the UNet beside the latents. InputError where these do not fit the model.
    """
    if model.task is Task.INSTRUCTION:
        edited = instruction.edited_image(model, request.init_image, channels is not None)
        return FromNoise(channels) if edited is None else edited
    if model.upscales:
        unsupported = [
            name
            for name in ("strength", "mask", "mask_blur", "only_masked", "padding", "extend")
            if getattr(request, name) not in (None, False, 0)
        ]
        small = upscaling.small_image(model, request.init_image, request.noise_level, unsupported, channels is not None)
        return FromNoise(channels) if small is None else small
    if (
        request.mask is None
        and request.extend is None
        and (request.mask_blur or request.only_masked or request.padding is not None)
    ):
        image_flag = "" if request.init_image is not None else "--init-image and "
        raise InputError(f"mask blur, only-masked and padding are about a mask; give {image_flag}--mask")
    if request.padding is not None and not request.only_masked:
        raise InputError("padding is of --only-masked; give both")
    image, mask = request.init_image, request.mask
    if request.extend is not None:
        if image is None or mask is not None:
            advice = "give it too" if image is None else "leave --mask out"
            raise InputError(f"--extend paints on beyond the sides of --init-image, without a mask; {advice}")
        image, mask = request.extend.apply(images.read(image)), painting.ALPHA
    padding = (PADDING if request.padding is None else request.padding) if request.only_masked else None
    canvas = painting.canvas(
        model,
        image,
        mask,
        request.mask_blur or 0.0,
        padding,
        channels=channels is not None,
    )
    return FromNoise(channels) if canvas is None else canvas


def complete(model: Model, request: Request, start: StartingPoint | None = None) -> Request:
    """Returns the request with everything filled in that decides a picture of this model, checked.

    start: of the request, where it is open already. InputError says what does not fit, before any work.
    """
    start = starting_point(model, request) if start is None else start
    instruction.check(model.name, model.task, request)
    token_plan.check(model, request)
    request = check_prompts(model, _with_distilled(model, _with_preset(model, check_subject(model, request))))
    width, height = start.size(model, request.width, request.height)
    if request.controls and (width is None or height is None):
        width, height = controls.size_for(model, request)
    elif request.adapters and (width is None or height is None):
        width, height = adapters.size_for(model, request)
    width, height = _size(model, width, height)
    if request.tile:
        model.vae.tile(max(width, height), request.tile)  # an error where it is too small
    elif request.tile is None and model.low_memory:
        # Recorded, so that the picture is the same where there is more memory.
        request = request.with_values(tile=model.vae.tile_in_low_memory(max(width, height)))
    strength = start.strength(request.strength, STRENGTH)
    painted = painted_tokens(model, start, (width, height)) if model.tokens else None
    if model.tokens:
        solver = token_plan.solver_of(model, request, token_plan.tokens_of(model, (width, height), painted))
    else:
        solver = _solver(model, request, strength)
    completed = request.with_values(
        seed=seeds.draw() if request.seed is None else request.seed,
        guidance=_guidance(model, request.guidance),
        **solver,
        width=width,
        height=height,
        strength=strength,
        noise_level=_noise_level(model, request.noise_level),
        image_guidance=request.image_guidance or (IMAGE_GUIDANCE if model.task is Task.INSTRUCTION else None),
        denoise_tile=_denoise_tile(model, request.denoise_tile),
        freeu=request.freeu.for_family(model.family) if request.freeu else None,
        model=model.name,
        model_hash=model.hash,
        checkpoint_hash=model.checkpoint_hash,
        dtype=str(model.dtype).rpartition(".")[2],
        lora_hashes=lora_hashes(zip(model.loras, model.lora_hashes, strict=True)),
        loras=tuple(Lora.from_record(record) for record in model.loras),
        quantize=model.quantization,
        lora_mode=None if model.lora_mode == "merge" else model.lora_mode,
        hires_hash=hires_upscaler.digest(model, request),
        tuning=apply.completed(model, request.tuning, (width, height)),
        vae=model.vae_name,
        vae_hash=model.vae_hash,
        adapters=adapters.completed(model, request, (width, height)),
        ip_adapters=image_prompts.completed(model, request),
        controls=controls.completed(model, request, (width, height)),
        **_file_hashes(request),
    )
    _check_layers(model, completed)
    evaluations = token_plan.check_calls(model, completed, painted) if model.tokens else _check_reuse(model, completed)
    if completed.deepcache and evaluations <= _FEW and request.model_hash is None:  # completed: it was warned of before
        warnings.warn(
            f"in {evaluations} evaluations little repeats itself: DeepCache gains little there and costs quality; "
            "leave it out",
            stacklevel=1,  # of this line, so that Python shows it once, whatever called
        )
    return completed


def _solver(model: Model, request: Request, strength: float | None) -> dict[str, Any]:
    """Returns sampler, schedule, steps and the options of the solver, by their names in a request."""
    schedule = request.schedule
    if schedule is not None and schedule.endswith(".json"):
        schedule = read_schedule(Path(schedule))
    sampler, schedule, options = samplers.choose(model.scheduler, request.sampler, schedule, request.options)
    steps = _steps(model, request.steps, sampler, schedule)
    if strength is not None:
        _check_strength(strength, steps)
    names = {name: getattr(options, name) for name in SOLVER}
    return {"sampler": sampler, "schedule": schedule, "steps": steps, **names}


def table_of(model: Model, request: Request, midway: bool = True) -> Table:
    """Returns the sampler's rows for a completed request.

    Of strength s, these are the last int(steps * s) steps, as in diffusers. midway: whether sampling begins with an
    image; otherwise all steps run.
    """
    assert request.sampler is not None and request.schedule is not None and request.steps is not None
    begin = None
    if midway and request.strength is not None:
        begin = request.steps - int(request.steps * request.strength)
    return samplers.table(model.scheduler, request.sampler, request.schedule, request.options, request.steps, begin)


def preset_of(model: Model, speed: str) -> Preset:
    """Returns the preset that `--speed` names for a model; InputError where it has none."""
    return preset(speed, model.family, embedded=model.name == MODEL, distilled=distilled_of(model) is not None)


def speed_words(model: Model, speed: str, request: Request) -> str:
    """Returns what `--speed` has become in a completed request, in flags, and what that saves where it was measured.

    The figures of a preset are of its own settings, with everything else left at the checkpoint's defaults.
    """
    own_preset = preset_of(model, speed)
    names = ("sampler", "steps", "deepcache", "tgate")
    flags = [f"--{name} {value}" for name in names if (value := getattr(request, name)) is not None]
    _, schedule, options = samplers.choose(model.scheduler, own_preset.sampler)
    defaults = {
        **own_preset.settings,
        "schedule": schedule,
        **{name: getattr(options, name) for name in SOLVER},
        "guidance": default_guidance(model),
        "guidance_rescale": 0.0,
        "clip_skip": 0,
        "denoise_tile": _denoise_tile(model, None),
        **dict(zip(("width", "height"), _size(model, None, None), strict=True)),
    }
    others = ("loras", "quantize", "freeu", "refiner", "init_image")
    measured = all(getattr(request, name) == value for name, value in defaults.items())
    if measured and not any(getattr(request, name) for name in others):
        return f"{' '.join(flags)}: {own_preset.evidence}"
    return f"{' '.join(flags)}; what --speed {speed} was measured with is different, so it has no figures here"


def distilled_words(model: Model, request: Request, completed: Request) -> list[str]:
    """Returns a line about the settings that a distilled model has by itself, in flags; nothing for other models.

    request: as it was before it was completed. Where it guides what was distilled without guidance, the line says that.
    """
    distilled = distilled_of(model)
    if distilled is None:
        return []
    if distilled.guidance <= 1 and (completed.guidance or 0) > _STRONG:
        return [f"this is a {distilled.method} model, made to work without guidance: leave --guidance out"]
    left_open = _left_open(request, distilled.settings)
    flags = [f"--{name} {getattr(completed, name)}" for name, value in left_open.items() if value is not None]
    return [f"this is a {distilled.method} model: {' '.join(flags)}"] if flags else []


def unguided_words(request: Request) -> list[str]:
    """Returns a line about what a completed request says of guidance where it is off, and nothing where it is on."""
    names = ("negative", "guidance_rescale", *(["image_guidance"] if request.image_guidance != IMAGE_GUIDANCE else []))
    unused = [f"--{name.replace('_', '-')}" for name in names if getattr(request, name)]
    if not unused or request.guidance is None or request.guidance > 1:
        return []
    return [f"with --guidance {request.guidance:g} there is no guidance, so {' and '.join(unused)} changes nothing"]


def _file_hashes(request: Request) -> dict[str, str | None]:
    """Returns SHA-256 of the files that a picture begins with; images in memory have none."""
    sources = {"init_image_hash": request.init_image, "mask_hash": request.mask}
    return {
        name: metadata.digest(source) if isinstance(source, str) and source != painting.ALPHA else None
        for name, source in sources.items()
    }


def _with_preset(model: Model, request: Request) -> Request:
    """Fills in the settings of `--speed` that the request leaves open."""
    if request.speed is None:
        return request
    return request.with_values(speed=None, **_left_open(request, preset_of(model, request.speed).settings))


def _left_open(request: Request, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of some settings, by name, of which a request says nothing."""
    return {name: value for name, value in settings.items() if getattr(request, name) is None}


def _with_distilled(model: Model, request: Request) -> Request:
    """Fills in the settings that a distilled model needs, where the request leaves them open."""
    distilled = distilled_of(model)
    if distilled is None:
        return request
    settings = _left_open(request, distilled.settings)
    if request.sampler is not None:  # the schedule is that of the sampler
        settings.pop("schedule", None)
    if request.schedule is not None and (request.schedule.endswith(".json") or step_count(request.schedule)):
        settings.pop("steps", None)  # the schedule says how many there are
    return request.with_values(**settings)


def _size(model: Model, width: int | None, height: int | None) -> tuple[int, int]:
    factor, sizes = model.vae.config.downsampling, model.sizes
    native = sizes[0] if sizes else (model.unet.config.sample_size * factor,) * 2
    width, height = native[0] if width is None else width, native[1] if height is None else height
    multiple = factor * model.unet.config.size_multiple
    for name, value in (("width", width), ("height", height)):
        if value < multiple or value % multiple:
            near = [side for side in (value // multiple * multiple, (value // multiple + 1) * multiple) if side > 0]
            raise InputError(
                f"{name} must be a positive multiple of {multiple}, not {value}; {' and '.join(map(str, near))} "
                f"{'are' if len(near) > 1 else 'is'} near"
            )
    if sizes and (width, height) not in sizes:
        possible = ", ".join(f"{w} x {h}" for w, h in sizes)
        raise InputError(f"this model makes pictures of {possible} and no other size, not of {width} x {height}")
    return width, height


def default_guidance(model: Model) -> float:
    """Returns the guidance of the model, or of its family; 1 is none, where there is no prompt or class to drop."""
    if model.name == MODEL:
        return GUIDANCE_EMBEDDED
    if model.family in (Family.UNCONDITIONAL, Family.SUPER_RESOLUTION):
        return 1.0
    if model.family is Family.CLASS_CONDITIONAL:
        return GUIDANCE_CLASSES if model.classes and model.classes.null is not None else 1.0
    if model.tokens and not model.text_encoders:
        return 1.0
    by_family = {
        Family.TOKENS: GUIDANCE_TOKENS,
        Family.UPSCALER: GUIDANCE_UPSCALER,
        Family.SDXL: GUIDANCE_SDXL,
        Family.REFINER: GUIDANCE_SDXL,
    }
    return by_family.get(model.family, GUIDANCE)


def _guidance(model: Model, guidance: float | None) -> float:
    default = default_guidance(model)
    if guidance is None:
        return default
    if guidance > 1 and default == 1:
        raise InputError(f"this model knows nothing to steer away from: guidance is at most 1, not {guidance}")
    return guidance


def _steps(model: Model, steps: int | None, sampler: str, schedule: str) -> int:
    fixed = step_count(schedule)
    if fixed is not None:
        if steps not in (None, fixed):
            raise InputError(f"the schedule given is of {fixed} steps, not {steps}; leave --steps out")
        return fixed
    if steps is not None:
        return steps
    if sampler == "ddpm" and not model.text_encoders:  # with few steps it leaves noise
        return model.scheduler.num_train_timesteps
    return {Family.UPSCALER: STEPS_UPSCALER, Family.SUPER_RESOLUTION: STEPS_SUPER_RESOLUTION}.get(model.family, STEPS)


def _check_strength(strength: float, steps: int) -> None:
    if int(steps * strength) < 1 <= steps:
        least = math.ceil(1000 / steps) / 1000
        raise InputError(f"strength {strength} leaves none of {steps} steps; give {least:g} or more, or more steps")


def _noise_level(model: Model, level: int | None) -> int | None:
    if model.low_res:
        return model.low_res.level(level)
    if level is not None:
        raise InputError(f"the noise level is of x4 upscalers; {model.name} is none, so leave out --noise-level")
    return None


def _denoise_tile(model: Model, tile: int | None) -> int:
    config = model.unet.config
    if tile is None:
        return max(DENOISE_TILE, config.sample_size) if model.upscales else 0
    if tile and tile < 2 * config.downsampling:
        raise InputError(f"tiles must be at least {2 * config.downsampling} latents a side for this UNet, not {tile}")
    return tile


def _check_layers(model: Model, request: Request) -> None:
    """Raises InputError for layers of the text encoder, and for a level of the UNet, that are not there."""
    least = min((encoder.config.layers for encoder in model.text_encoders), default=1)
    if not 0 <= request.clip_skip < least:
        raise InputError(f"clip skip must be from 0 to {least - 1}, not {request.clip_skip}")
    deepcache, branches = request.deepcache, model.unet.branches
    if deepcache and deepcache.branch not in branches:
        available = (
            f"it has {branches[0]} to {branches[-1]}" if len(branches) > 1 else f"it has {[*branches] or 'none'}"
        )
        raise InputError(f"there is no DeepCache branch {deepcache.branch} in this UNet; {available}")


def _check_reuse(model: Model, request: Request) -> int:
    """Checks policies and steps against the networks; returns the number of evaluations."""
    deepcache, tgate = request.deepcache, request.tgate
    if tgate and not model.unet.config.takes_context:
        raise InputError("this UNet looks at no prompt, so T-GATE has nothing to keep; leave --tgate out")
    table = table_of(model, request)  # also checks the steps
    evaluations = len(table.rows)
    for control in request.controls:
        if not any(control.acts(i, evaluations) for i in range(evaluations)):
            raise InputError(
                f"from {control.start:g} to {control.end:g} of the steps {control.model} acts at none of {evaluations} "
                "evaluations; give it more of them, or more steps"
            )
    if deepcache:
        deepcache.check(evaluations)
    if tgate:
        tgate.check(evaluations)
        check_gate(model, request, tgate, table.steps)
    check_guided_steps(model, request, max(table.steps))
    if request.token_downsampling:
        request.token_downsampling.check(model.unet.config, max(table.steps))
    return evaluations
