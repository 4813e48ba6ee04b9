"""The sampling of requests that go through the UNet together: start, network, loop, decoding."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from PIL import Image

from . import adapters, conditions, controls, hires, hires_upscaler, image_prompts, memory, seeds
from .adapters import Features
from .checkpoint.model import Model
from .codec import decode, to_image
from .completion import complete, starting_point, table_of
from .controller import Branch, Controller
from .core.errors import InputError
from .image_prompts import ImageAttention
from .networks.unet import concatenate
from .perturbed_attention import PerturbedAttention
from .predictor import Predictor
from .request import REFINE_AT, Request
from .reuse.tgate import caches
from .sampling import loop, noise
from .sampling.table import Table
from .tasks.refiner import check_refiner, split_table
from .tasks.start import Start, StartingPoint
from .tasks.tiles import Cut, Tiled

Callback = Callable[[int, int, mx.array], None]
Accept = Callable[[int], bool]


class Phases(NamedTuple):
    """The seconds of one batch of pictures."""

    encode: float  # prompts, and images to begin with; of the first batch also what all batches share
    denoise: float  # the evaluations of the UNet, callbacks not counted
    decode: float  # latents to pictures, and what enlarges them between the passes of hires fix


@dataclass(frozen=True)
class Result:
    """Pictures, one entry each, and what they took."""

    images: list[Image.Image]  # empty where only latents were requested
    latents: mx.array  # (N, h, w, C), float32, of about unit variance
    requests: list[Request]  # completed: each holds everything that decides its picture
    seconds: list[float]  # one per evaluation of the UNet
    full: int  # how many evaluations were not cached
    phases: list[Phases]  # one per batch

    @property
    def prompts(self) -> list[str]:
        """The prompts, of models that take prompts."""
        return [request.prompt for request in self.requests if request.prompt is not None]

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture."""
        return [request.seed for request in self.requests if request.seed is not None]

    @property
    def evaluations(self) -> int:
        """How many times the UNet was evaluated."""
        return len(self.seconds)


class Beside(NamedTuple):
    """What stands beside the UNet: control networks, the features of adapters, and image prompts."""

    branches: Sequence[Branch]
    by_stage: Mapping[int, mx.array]
    image_attention: ImageAttention | None


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
) -> Iterator[Result]:
    """Makes the picture of each request; see `StableDiffusion.stream`."""
    if output not in ("image", "latent"):
        raise InputError(f"output is 'image' or 'latent', not {output!r}")
    if batch < 1:
        raise InputError(f"the batch must be at least 1, not {batch}")
    if latents is not None and len(requests) != latents.shape[0]:
        raise InputError(f"{latents.shape[0]} latents for {len(requests)} pictures")
    first = 0
    for _, members in groupby(requests, _shared_settings):
        group = list(members)
        unit = None if latents is None else latents[first : first + len(group)]
        beside = channels if channels is None or channels.shape[0] == 1 else channels[first : first + len(group)]
        admitted = None if accept is None else partial(_accept_from, accept, first)
        yield from _group(model, group, batch, refiner, unit, beside, output, callback, admitted)
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
    seeded = [request if request.seed is not None else request.with_values(seed=seeds.draw()) for request in requests]
    completed = [first.with_subject(conditions.check_subject(model, request)) for request in seeded]
    size = pixel_size(first)
    at_once = min(batch, len(completed))
    networks_beside = controls.size_in_memory(model, first.controls) + adapters.size_in_memory(model, first.adapters)
    networks_beside += image_prompts.size_in_memory(model, first)
    second = hires.second_pass(model, first)
    largest = pixel_size(first.with_values(**second.changes)) if second else size
    upscaler = hires.upscaler_of(model, first, size)
    memory.check(model, *largest, at_once, first.denoise_tile or 0, first.tile, networks_beside)
    shape = latent_shape(model, first)
    if latents is not None and (latents.ndim != 4 or latents.shape[1:] != shape):
        raise InputError(f"latents must be (N, {', '.join(map(str, shape))}), not {latents.shape}")
    clock = time.perf_counter()
    prepared = start.prepare(model, *size, first.strength, len(completed), first.tile)
    beside = _beside(model, first)
    preparation = time.perf_counter() - clock  # counted with the first batch
    if first.deepcache and first.deepcache.decides_per_image:
        batch = 1  # what one picture needs must not decide for another
    for batch_indices in conditions.batches(model, completed, batch):
        indices = [i for i in batch_indices if accept is None or accept(i)]
        if not indices:
            continue
        clock = time.perf_counter()
        members = [completed[i] for i in indices]
        draw_noise = partial(_draw_noise, [noise.generator(m.rng, m.seed or 0) for m in members], shape)
        begin = prepared.start(draw_noise, None if latents is None else latents[mx.array(indices)], indices)
        runs = [(stage.table, _stage_predictor(stage, members, begin.channels, beside)) for stage in stages]
        mx.eval([array for array in (begin.latents, begin.channels) if array is not None])
        encoded = time.perf_counter()
        evaluations = sum(len(table.rows) for table, _ in runs) + (len(second.table.rows) if second else 0)
        enlarging = 0.0
        final, seconds = _run(runs, begin, draw_noise, callback, evaluations)
        if second:
            mx.eval(final)
            between = time.perf_counter()
            pass_runs, again, draw_again = _second_pass(model, second, members, final, stages[0].steps, upscaler)
            mx.eval(again.latents)
            enlarging = time.perf_counter() - between
            final, more = _run(pass_runs, again, draw_again, callback, evaluations, done=len(seconds))
            runs += pass_runs
            seconds += more
        mx.eval(final)
        sampled = time.perf_counter()
        pixels = [] if output == "latent" else [decode(model, z, first.tile)[0] for z in final[:, None]]
        images = [start.finish(to_image(image)) for image in pixels]
        decoding = time.perf_counter() - sampled + enlarging
        phases = Phases(encoded - clock + preparation, sum(seconds), decoding)
        preparation = 0.0
        full = sum(predictor.full for _, predictor in runs)
        yield Result(images, final, members, seconds, full, [phases])


def _second_pass(
    model: Model,
    second: hires.SecondPass,
    members: Sequence[Request],
    latents: mx.array,
    steps: int,
    upscaler: Model | None,
) -> tuple[list[tuple[Table, Predictor | Tiled]], Start, Callable[[], mx.array]]:
    """Returns what the second pass of hires fix runs, what it begins with, and what draws its noise.

    latents: of the first pass, which had so many `steps`. Every cache is fresh, and the noise is of the same seeds.
    """
    larger = [request.with_values(**second.changes) for request in members]
    draws = [noise.generator(request.rng, request.seed or 0) for request in larger]
    draw_noise = partial(_draw_noise, draws, latent_shape(model, larger[0]))
    predictor = predictor_of(model, larger, None, second.table, steps_before=steps)
    upscale = None if upscaler is None else partial(_upscaled, upscaler, members)
    image = hires.enlarged(model, latents, larger[0], *pixel_size(larger[0]), upscale)
    return [(second.table, predictor)], Start(draw_noise(), image), draw_noise


def _upscaled(upscaler: Model, members: Sequence[Request], pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Returns the pictures of some requests four times as large, each by itself, so that no batch changes them."""
    requests = [hires_upscaler.request_for(upscaler, *pair) for pair in zip(members, pictures, strict=True)]
    return [image for request in requests for result in stream(upscaler, [request]) for image in result.images]


def predictor_of(
    model: Model,
    requests: Sequence[Request],
    channels: mx.array | None = None,
    table: Table | None = None,
    *,
    first_step: int = 0,
    steps: int | None = None,
    steps_before: int = 0,
    beside: Beside | None = None,
) -> Predictor | Tiled:
    """Returns the network as the sampling loop sees it; see `StableDiffusion.predictor`.

    first_step, steps: how many steps were run before this table's, and how many there are in all, for prompts that
    change on the way; steps_before: those of an earlier pass. beside: what stands beside the UNet, where it is loaded.
    """
    request = requests[0]
    size, tile = latent_shape(model, request)[:2], request.denoise_tile
    table = table or table_of(model, request)
    log_snr = table.log_snr
    numbers = [first_step + number for number in table.steps]
    inputs = conditions.subjects_of(model, requests, numbers, steps, steps_before)
    join = request.freeu.join(model.unet.config) if request.freeu else concatenate
    branches, by_stage, image_attention = _beside(model, request) if beside is None else beside
    perturbation = PerturbedAttention(model.unet, request.pag, request.pag_adaptive or 0.0) if request.pag else None
    features = Features.of(by_stage, request, len(log_snr))

    def over(cut: Cut) -> Predictor:
        """Returns a predictor with fresh caches, over a tile or the whole picture."""
        own_branches = [branch._replace(image=cut(branch.image)) for branch in branches]
        control = Controller(own_branches, len(log_snr), bool(request.guess_mode)) if branches else None
        restarts = {*inputs.changes, *(control.changes if control else ())}
        restarts |= {*(features.changes(len(log_snr)) if features else ())}
        guided = inputs.conditions[0].guided
        deepcache, tgate = caches(request.deepcache, request.tgate, log_snr, guided=guided, restarts=restarts)
        return Predictor(
            model.unet,
            inputs.conditions,
            request.guidance or 0.0,
            deepcache,
            guidance_rescale=request.guidance_rescale,
            image_guidance=request.image_guidance or 1.0,
            channels=None if channels is None else cut(channels),
            join=join,
            tgate=tgate,
            control=control,
            image_attention=image_attention,
            features=features and features.of_tile(cut, size),
            perturbation=perturbation,
        )

    if not tile or max(size) <= tile:
        return over(lambda array: array)
    return Tiled(size, tile, model.unet.config.downsampling, over)


def latent_shape(model: Model, request: Request) -> tuple[int, int, int]:
    """Returns (h, w, C) of the latents of a completed request."""
    factor, (width, height) = model.vae.config.downsampling, pixel_size(request)
    return height // factor, width // factor, model.vae.config.latent_channels


def pixel_size(request: Request) -> tuple[int, int]:
    """Returns (width, height) of a completed request."""
    assert request.width is not None and request.height is not None
    return request.width, request.height


def _stage_predictor(
    stage: Stage,
    members: Sequence[Request],
    channels: mx.array | None,
    beside: Beside,
) -> Predictor | Tiled:
    changed = [request.with_values(**stage.changes) for request in members]
    return predictor_of(
        stage.model,
        changed,
        channels if stage.model.additional_channels else None,  # a refiner takes none
        stage.table,
        first_step=stage.first_step,
        steps=stage.steps,
        beside=None if stage.changes else beside,  # of the base; with its changes a refiner has none
    )


def _beside(model: Model, request: Request) -> Beside:
    """Loads what stands beside the UNet of a completed request, and shows it its images."""
    return Beside(
        controls.branches(model, request), adapters.features(model, request), image_prompts.attention(model, request)
    )


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


def _shared_settings(request: Request) -> Request:
    return request.with_values(prompt=None, class_label=None, seed=None)


def _run(
    runs: Sequence[tuple[Table, Predictor | Tiled]],
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
    for table, predictor in runs:
        image = None if table.image_scale is None else start.latents
        latents = loop.run(table, predictor, latents, draw_noise, after, image, start.keep)
    return latents, seconds


def _draw_noise(draws: list[noise.Draw], shape: tuple[int, int, int], channels: int | None = None) -> mx.array:
    """Returns unit noise (N, h, w, C), each picture's from its own generator.

    It is drawn channel-first, as all other programs have latents, so that one seed means one picture there and here.
    """
    height, width, depth = shape[0], shape[1], channels or shape[2]
    return mx.array(np.stack([draw((depth, height, width)).transpose(1, 2, 0) for draw in draws]))
