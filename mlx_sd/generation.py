"""The sampling of requests that go through the UNet together: start, network, loop, decoding."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from PIL import Image

from . import adapters, batching, controls, hires, hires_upscaler, image_prompts, memory, split_checks, token_generation
from .checkpoint.low_memory import small_cache
from .checkpoint.model import Model
from .codec import to_image
from .completion import complete, starting_point, table_of
from .core.errors import InputError
from .predictor import Beside, Predictor, beside_of, latent_shape, pixel_size, predictor_of
from .request import REFINE_AT, Request
from .result import Accept, Callback, Phases, Result
from .sampling import loop, noise
from .sampling.table import Table
from .split import UNSPLIT, Split
from .tasks.refiner import check_refiner, split_table
from .tasks.start import Start, StartingPoint
from .tasks.tiles import Tiled


class Run(NamedTuple):
    """A table of steps that a model runs."""

    model: Model
    table: Table
    predictor: Predictor | Tiled


class Stage(NamedTuple):
    """A part of the steps: the model that runs them, what differs in its requests, and the rows."""

    model: Model
    changes: dict[str, Any]
    table: Table
    first_step: int = 0  # how many steps other stages run before
    steps: int = 0  # of all stages


def stream(
    model: Model,
    requests: Sequence[Request],
    *,
    batch: int = 1,
    refiner: Model | None = None,
    latents: mx.array | None = None,
    channels: mx.array | None = None,
    output: str = "image",
    callback: Callback | None = None,
    accept: Accept | None = None,
    split: Split = UNSPLIT,
) -> Iterator[Result]:
    """Makes the picture of each request; see `StableDiffusion.stream`."""
    if output not in ("image", "latent"):
        raise InputError(f"output is 'image' or 'latent', not {output!r}")
    if batch < 1:
        raise InputError(f"the batch must be at least 1, not {batch}")
    if latents is not None and len(requests) != latents.shape[0]:
        raise InputError(f"{latents.shape[0]} latents for {len(requests)} pictures")
    if model.tokens is not None:
        token_generation.check_arguments(refiner, latents, channels, split.kind)
    first, accept = 0, split.decisions(accept)
    for group in batching.groups(requests):
        unit = None if latents is None else latents[first : first + len(group)]
        beside = channels if channels is None or channels.shape[0] == 1 else channels[first : first + len(group)]
        admitted = None if accept is None else partial(_accept_from, accept, first)
        with small_cache(model.low_memory):
            if model.tokens is not None:
                yield from token_generation.group(model, group, batch, output, callback, admitted)
            else:
                yield from _group(model, group, batch, refiner, unit, beside, output, callback, admitted, split)
        first += len(group)


def _group(
    model: Model,
    requests: Sequence[Request],
    batch: int,
    refiner: Model | None,
    latents: mx.array | None,
    channels: mx.array | None,
    output: str,
    callback: Callback | None,
    accept: Accept | None,
    split: Split,
) -> Iterator[Result]:
    """Yields the pictures of requests that share all settings but prompt, class and seed."""
    start = starting_point(model, requests[0], channels)
    first = complete(model, requests[0], start)
    stages = _stages(model, first, start, refiner)
    if refiner is not None:
        first = first.with_values(
            refiner=refiner.name,
            refiner_hash=refiner.hash,
            refine_at=REFINE_AT if first.refine_at is None else first.refine_at,
        )
    completed = batching.completed(model, first, requests, split.draw_seed)
    size = pixel_size(first)
    at_once = min(batch, len(completed))
    networks_beside = controls.size_in_memory(model, first.controls) + adapters.size_in_memory(model, first.adapters)
    networks_beside += image_prompts.size_in_memory(model, first)
    second = hires.second_pass(model, first)
    split_checks.check(model, completed, split, (latents, channels))
    largest = pixel_size(first.with_values(**second.changes)) if second else size
    upscaler = None if split.rank else hires.upscaler_of(model, first, size)
    memory.check(model, *largest, at_once, first.denoise_tile or 0, first.tile, networks_beside, ranks=split.rows.size)
    shape = latent_shape(model, first)
    if latents is not None and (latents.ndim != 4 or latents.shape[1:] != shape):
        raise InputError(f"latents must be (N, {', '.join(map(str, shape))}), not {latents.shape}")
    clock = time.perf_counter()
    model.work("vae")
    prepared = start.prepare(model, *size, first.strength, len(completed), first.tile)
    beside = beside_of(model, first)
    preparation = time.perf_counter() - clock  # counted with the first batch
    for indices in batching.accepted(model, completed, batch, accept):
        clock = time.perf_counter()
        members = [completed[i] for i in indices]
        draw_noise = partial(_draw_noise, [noise.generator(m.rng, m.seed or 0) for m in members], shape)
        begin = prepared.start(draw_noise, None if latents is None else latents[mx.array(indices)], indices)
        mx.eval([array for array in (begin.latents, begin.channels) if array is not None])
        runs = [_stage_run(stage, members, begin.channels, beside, split) for stage in stages]
        encoded = time.perf_counter()
        evaluations = sum(len(run.table.rows) for run in runs) + (len(second.table.rows) if second else 0)
        enlarging = 0.0
        final, seconds = _run(runs, begin, draw_noise, callback, evaluations)
        if second:
            mx.eval(final)
            between = time.perf_counter()
            pass_runs, again, draw_again = _second_pass(model, second, members, final, stages[0].steps, upscaler, split)
            mx.eval(again.latents)
            enlarging = time.perf_counter() - between
            final, more = _run(pass_runs, again, draw_again, callback, evaluations, done=len(seconds))
            runs += pass_runs
            seconds += more
        mx.eval(final)
        sampled = time.perf_counter()
        runs[-1].model.work()
        pixels = [] if output == "latent" else split.decode(model, final, first.tile)
        images = [start.finish(to_image(image)) for image in pixels]
        decoding = time.perf_counter() - sampled + enlarging
        phases = Phases(encoded - clock + preparation, sum(seconds), decoding)
        preparation = 0.0
        full = sum(split.most(run.predictor.full) for run in runs)
        yield Result(images, final, members, seconds, full, [phases])


def _second_pass(
    model: Model,
    second: hires.SecondPass,
    members: Sequence[Request],
    latents: mx.array,
    steps: int,
    upscaler: Model | None,
    split: Split,
) -> tuple[list[Run], Start, Callable[[], mx.array]]:
    """Returns what the second pass of hires fix runs, what it begins with, and what draws its noise.

    latents: of the first pass, which had so many `steps`. Every cache is fresh, and the noise is of the same seeds.
    upscaler: of rank 0, which makes the pictures larger for all.
    """
    larger = [request.with_values(**second.changes) for request in members]
    draws = [noise.generator(request.rng, request.seed or 0) for request in larger]
    draw_noise = partial(_draw_noise, draws, latent_shape(model, larger[0]))
    upscale = None if upscaler is None else partial(_upscaled, upscaler, members)
    image = split.once(lambda: hires.enlarged(model, latents, larger[0], *pixel_size(larger[0]), upscale))
    mx.eval(image)
    predictor = predictor_of(model, larger, None, second.table, steps_before=steps, split=split)
    return [Run(model, second.table, predictor)], Start(draw_noise(), image), draw_noise


def _upscaled(upscaler: Model, members: Sequence[Request], pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Returns the pictures of some requests four times as large, each by itself, so that no batch changes them."""
    requests = [hires_upscaler.request_for(upscaler, *pair) for pair in zip(members, pictures, strict=True)]
    return [image for request in requests for result in stream(upscaler, [request]) for image in result.images]


def _stage_run(
    stage: Stage,
    members: Sequence[Request],
    channels: mx.array | None,
    beside: Beside,
    split: Split,
) -> Run:
    changed = [request.with_values(**stage.changes) for request in members]
    predictor = predictor_of(
        stage.model,
        changed,
        channels if stage.model.additional_channels else None,  # a refiner takes none
        stage.table,
        first_step=stage.first_step,
        steps=stage.steps,
        beside=None if stage.changes else beside,  # of the base; with its changes a refiner has none
        split=split,
    )
    return Run(stage.model, stage.table, predictor)


def _stages(model: Model, request: Request, start: StartingPoint, refiner: Model | None) -> list[Stage]:
    """Returns this model's rows up to `refine_at` and the refiner's after it; all rows without a refiner."""
    table = table_of(model, request, midway=start.begins_midway(request.strength))
    if refiner is None:
        if request.refine_at is not None:
            raise InputError("there is no refiner to begin anywhere; give --refiner too")
        return [Stage(model, {}, table, steps=max(table.steps))]
    if request.tgate:
        raise InputError("T-GATE's gate is of one network; leave out T-GATE or the refiner")
    check_refiner(model, refiner)
    # The refiner has the second text encoder alone, and takes the first prompt, as in diffusers. Control networks and
    # adapters are of the base: a refiner's UNet has other widths.
    changes: dict[str, Any] = {"clip_skip": 0, "prompt_2": None, "negative_2": None, "target_size": None}
    changes |= {"controls": (), "guess_mode": None, "adapters": (), "adapter_factor": None}
    changes |= {"ip_adapters": (), "ip_encoder": None, "image_guidance": None}
    complete(refiner, request.with_values(**changes, init_image=None, mask=None, strength=None))
    base, refined = split_table(
        model,
        refiner,
        table,
        REFINE_AT if request.refine_at is None else request.refine_at,
        sampler=request.sampler or "",
        schedule_name=request.schedule or "",
        options=request.options,
        steps=request.steps or 0,
        strength=request.strength,
    )
    before, after = max(base.steps), max(refined.steps)
    return [
        Stage(model, {}, base, steps=before + after),
        Stage(refiner, changes, refined, first_step=before, steps=before + after),
    ]


def _accept_from(accept: Accept, first: int, index: int) -> bool:
    return accept(first + index)


def _run(
    runs: Sequence[Run],
    start: Start,
    draw_noise: Callable[[], mx.array],
    callback: Callback | None,
    evaluations: int,
    done: int = 0,
) -> tuple[mx.array, list[float]]:
    """Runs tables, each from where the one before ended; `done` of all evaluations were run before these.

    Returns the final latents and the seconds of each evaluation, callbacks not counted.
    """
    seconds: list[float] = []
    clock = time.perf_counter()

    def after(_evaluation: int, _evaluations: int, denoised: mx.array) -> None:
        """Notes the time of an evaluation and calls the callback, whose own time does not count."""
        nonlocal clock
        seconds.append(time.perf_counter() - clock)
        if callback is not None:
            callback(done + len(seconds), evaluations, denoised)
        clock = time.perf_counter()

    latents = start.noise
    for run in runs:
        for other in runs:
            other.model.work(*(["unet"] if other.model is run.model else []))
        image = None if run.table.image_scale is None else start.latents
        latents = loop.run(run.table, run.predictor, latents, draw_noise, after, image, start.keep)
    return latents, seconds


def _draw_noise(draws: list[noise.Draw], shape: tuple[int, int, int], channels: int | None = None) -> mx.array:
    """Returns unit noise (N, h, w, C), each picture's from its own generator.

    It is drawn channel-first, as all other programs have latents, so that one seed means one picture there and here.
    """
    height, width, depth = shape[0], shape[1], channels or shape[2]
    return mx.array(np.stack([draw((depth, height, width)).transpose(1, 2, 0) for draw in draws]))
