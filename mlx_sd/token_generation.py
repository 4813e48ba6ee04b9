"""The sampling of requests of a model whose pictures are tokens: each picture by itself, a batch call by call."""

import time
from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from . import batching, conditions, memory
from .checkpoint.model import Model
from .codec import to_image
from .completion import complete, starting_point
from .core.errors import InputError
from .discrete.corruption import Tokens
from .discrete.samplers import Mask, Run
from .predictor import pixel_size
from .request import Request
from .result import Accept, Callback, Phases, Result
from .split import UNSPLIT
from .tasks.token_canvas import image_tokens, latents_of, painted_tokens
from .token_plan import plan_of
from .token_predictor import TokenPredictor


class Picture:
    """One picture on its way: its tokens (h, w), those of an image where it keeps them, and its calls."""

    def __init__(self, model: Model, request: Request, image: Tokens | None, painted: Mask | None, midway: bool):
        """Begins a completed request; image, painted: of its start. midway: whether the image is what is changed."""
        assert model.tokens is not None
        plan, factor = plan_of(model, request, painted), model.vae.config.downsampling
        width, height = (side // factor for side in pixel_size(request))
        self.calls, self._shape, self._around = len(plan.calls), (height, width), None
        numbers = range(plan.skipped + 1, plan.skipped + self.calls + 1)
        subjects = conditions.subjects_of(model, [request], numbers)
        inputs = subjects.conditions
        if image is not None and painted is not None:
            self._around = image, painted
        self.predictor = TokenPredictor(
            model.tokens.network,
            self._shape,
            plan.calls,
            [entry.context for entry in inputs],
            (request.guidance or 0.0) if inputs[0].guided else 1.0,
            request.deepcache,
            around=self._around,
            restarts=subjects.changes,
        )
        begin = image if image is None or painted is None else image[painted]
        self._run = Run(
            request.sampler or "",
            model.tokens.corruption,
            plan.calls,
            plan.rng,
            1.0 if request.temperature is None else request.temperature,
            begin if midway else None,
        )
        self._steps = self._run.steps(self.predictor)

    def step(self) -> None:
        """Makes the next call, where one is left."""
        next(self._steps, None)

    @property
    def tokens(self) -> Tokens:
        """Returns the tokens (h, w) of now, the mask among them."""
        return self.predictor.placed(self._run.tokens).reshape(self._shape)


def group(
    model: Model,
    requests: Sequence[Request],
    batch: int,
    output: str,
    callback: Callback | None,
    accept: Accept | None,
) -> Iterator[Result]:
    """Yields the pictures of requests that share all settings but prompt, class and seed; see `StableDiffusion.stream`.

    Each picture has its own random numbers and goes through the network alone, so no batch changes it.
    """
    start = starting_point(model, requests[0])
    first = complete(model, requests[0], start)
    completed = batching.completed(model, first, requests)
    size = pixel_size(first)
    memory.check(model, *size, 1, 0, first.tile)
    clock = time.perf_counter()
    image, painted = image_tokens(model, start, size, first.tile), painted_tokens(model, start, size)
    midway = start.begins_midway(first.strength)
    preparation = time.perf_counter() - clock
    for indices in batching.accepted(model, completed, batch, accept):
        clock = time.perf_counter()
        members = [completed[i] for i in indices]
        pictures = [Picture(model, request, image, painted, midway) for request in members]
        encoded = time.perf_counter()
        model.work("unet")
        seconds = _run(model, pictures, callback)
        latents = _latents(model, pictures)
        mx.eval(latents)
        sampled = time.perf_counter()
        model.work()
        pixels = [] if output == "latent" else UNSPLIT.decode(model, latents, first.tile)
        images = [start.finish(to_image(colours)) for colours in pixels]
        phases = Phases(encoded - clock + preparation, sum(seconds), time.perf_counter() - sampled)
        preparation = 0.0
        full = max(picture.predictor.deepcache.full for picture in pictures)
        yield Result(images, latents, members, seconds, full, [phases], tuple(picture.calls for picture in pictures))


def check_arguments(*arguments: object) -> None:
    """Raises InputError for arguments of `StableDiffusion.generate` that only latents have: they must be None."""
    if any(argument is not None for argument in arguments):
        raise InputError("latents, channels, a refiner and --split are for latents; this model's pictures are tokens")


def _run(model: Model, pictures: Sequence[Picture], callback: Callback | None) -> list[float]:
    """Makes all calls of pictures, the n-th of each one after the other; returns the seconds of each n."""
    seconds: list[float] = []
    count = max(picture.calls for picture in pictures)
    for number in range(1, count + 1):
        clock = time.perf_counter()
        for picture in pictures:
            picture.step()
        seconds.append(time.perf_counter() - clock)
        if callback is not None:
            callback(number, count, _latents(model, pictures))
    return seconds


def _latents(model: Model, pictures: Sequence[Picture]) -> mx.array:
    """Returns latents (N, h, w, C) of the tokens of now."""
    return latents_of(model, np.stack([picture.tokens for picture in pictures]))
