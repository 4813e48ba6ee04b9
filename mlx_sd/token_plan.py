"""What a request means for a model whose pictures are tokens: its settings, and its calls, known beforehand."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .checkpoint.model import Model
from .checkpoint.token_diffusion import TokenDiffusion
from .conditions import negative_scripts, subject_scripts
from .core.errors import InputError
from .discrete import schedules
from .discrete.calls import DNDM_C, DNDM_K, MASKING, NAMES, TIMED, Call, calls_of
from .discrete.samplers import Mask
from .request import SETTINGS, SOLVER, Request
from .sampling import samplers
from .sampling.schedules import names
from .tasks.start import StartingPoint
from .tasks.token_canvas import painted_tokens

STEPS = 12  # of the samplers that decide several tokens at each call
# Settings without a meaning for tokens, beside those of solvers
_OF_LATENTS = (
    "guidance_rescale",
    "rng",
    "speed",
    "tgate",
    "token_downsampling",
    "freeu",
    "tuning",
    "refiner",
    "refine_at",
    "denoise_tile",
    "pag",
    "pag_adaptive",
    "guidance_interval",
    "adaptive_guidance",
    "unconditional_refresh",
    "hires",
    "hires_mode",
    "image_guidance",
    "noise_level",
    "controls",
    "guess_mode",
    "adapters",
    "adapter_factor",
    "ip_adapters",
    "ip_encoder",
    "loras",
    "vae",
    "lora_mode",
)
_PLAIN = Request()
_EVEN = 1e-9  # by which times may be rounded


class Plan(NamedTuple):
    """The calls of the network for one picture."""

    calls: list[Call]  # with the times that the network is told
    skipped: int  # calls before them, at whose times an image has nothing left of itself
    rng: np.random.Generator  # has drawn them, and draws the tokens


def check(model: Model, request: Request) -> None:
    """Raises InputError for settings of tokens with a model of latents, and the other way around."""
    sampler, schedule = request.sampler, request.schedule
    if model.tokens is None:
        if request.temperature is not None:
            raise InputError(f"--temperature is of models whose pictures are tokens, not of {model.name}; leave it out")
        if sampler in NAMES:
            raise InputError(
                f"the sampler {sampler} is of models whose pictures are tokens; {model.name} takes "
                f"{', '.join(samplers.names())}"
            )
        if schedule is not None and schedules.is_name(schedule):
            raise InputError(
                f"the schedule {schedule} is of models whose pictures are tokens; {model.name} takes "
                f"{', '.join(names())}"
            )
        return
    if sampler is not None and sampler not in NAMES:
        raise InputError(
            f"the sampler {sampler} is of latents, and the pictures of {model.name} are tokens; it takes "
            f"{', '.join(NAMES)}"
        )
    if schedule is not None and not schedules.is_name(schedule):
        raise InputError(
            f"the schedule {schedule} is of latents, and the pictures of {model.name} are tokens; it takes "
            f"{', '.join(schedules.NAMES)}"
        )
    for name in (*_OF_LATENTS, *SOLVER):
        value, description = getattr(request, name), SETTINGS[name]
        if value is not None if name in SOLVER else value and value != getattr(_PLAIN, name):
            flag = description.flag or f"--{name.replace('_', '-')}"
            raise InputError(
                f"{flag} has no meaning for a model whose pictures are tokens, as {model.name}; leave it out"
            )
    if request.deepcache and request.deepcache.follows_path:
        raise InputError(f"--deepcache {request.deepcache} follows the path of latents; give an interval, as 2")


def solver_of(model: Model, request: Request, tokens: int) -> dict[str, Any]:
    """Returns sampler, schedule, steps and temperature of a request, checked; tokens: how many are to be decided."""
    diffusion = _diffusion(model)
    sampler, schedule, steps = request.sampler or diffusion.sampler, request.schedule, request.steps
    if sampler not in diffusion.samplers:
        raise InputError(
            f"the sampler {sampler} masks tokens, and {model.name} knows no mask; dndm_k decides as many at each call"
        )
    if sampler in MASKING and schedule is not None:
        raise InputError(f"the sampler {sampler} has a schedule of its own; leave --schedule out")
    if sampler not in MASKING:
        schedule = schedule or diffusion.schedule
        schedules.alphas(schedule, 1)  # raises where its numbers are out of range
    if sampler == DNDM_C:
        if steps not in (None, tokens):
            raise InputError(
                f"the sampler {sampler} has no steps: each of the {tokens} tokens changes at a time of its own; leave "
                "--steps out"
            )
        steps = tokens
    if steps is None:
        steps = STEPS if sampler in (*MASKING, DNDM_K) else diffusion.steps
    schedules.check_steps(steps)
    temperature = 1.0 if request.temperature is None else request.temperature
    return {"sampler": sampler, "schedule": schedule, "steps": steps, "temperature": temperature}


def tokens_of(model: Model, size: tuple[int, int], painted: Mask | None) -> int:
    """Returns how many tokens of a picture of (width, height) are to be decided; painted: which, None for all."""
    factor = model.vae.config.downsampling
    return size[0] // factor * (size[1] // factor) if painted is None else int(painted.sum())


def plan_of(model: Model, request: Request, painted: Mask | None = None) -> Plan:
    """Returns the calls of the network for a completed request; painted: which tokens (N,) change, None for all.

    InputError where a strength leaves none.
    """
    assert request.sampler and request.steps and request.width and request.height
    rng = np.random.default_rng(request.seed)
    total = tokens_of(model, (request.width, request.height), None)
    count = total if painted is None else int(painted.sum())
    every = calls_of(request.sampler, request.schedule or "linear", request.steps, count, rng)
    share = 1.0 if request.strength is None else request.strength
    calls = [call for call in every if call.time <= share + _EVEN]
    if not calls:
        least = math.ceil(1000 * every[-1].time) / 1000
        raise InputError(f"strength {share:g} leaves none of {len(every)} calls; give {least:g} or more, or more steps")
    return Plan(_diffusion(model).timed(calls, count / total), len(every) - len(calls), rng)


def check_calls(model: Model, request: Request, painted: Mask | None) -> int:
    """Checks prompt and policy of a completed request against its calls; returns how many there are.

    painted: which tokens (N,) change, None for all.
    """
    count = len(plan_of(model, request, painted).calls)
    if request.deepcache:
        request.deepcache.check(count)
    if model.text_encoders and request.prompt is not None:
        pairs = subject_scripts(model, request, count), negative_scripts(model, request, count)
        if pairs[0].first.weights != (1.0,):
            raise InputError(
                f"AND weighs predictions of latents, and the pictures of {model.name} are tokens; leave AND out"
            )
    return count


def calls_words(model: Model, requests: Sequence[Request], start: StartingPoint) -> list[str]:
    """Returns a line about how often the network is called for each of the pictures of completed requests."""
    first = requests[0]
    assert first.width and first.height
    painted = painted_tokens(model, start, (first.width, first.height))
    counts = sorted(
        {len(plan_of(model, request, painted).calls) for request in (requests if first.sampler in TIMED else [first])}
    )
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    times = "time" if counts == [1] else "times"
    return [f"{first.sampler} calls the network {number} {times} for {'the' if len(requests) == 1 else 'each'} picture"]


def _diffusion(model: Model) -> TokenDiffusion:
    assert model.tokens is not None
    return model.tokens
