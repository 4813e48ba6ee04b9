"""The sampling loop of a request from fixed noise, and the request of it."""

from typing import Any

import mlx.core as mx

from mlx_sd import StableDiffusion
from mlx_sd.completion import complete, table_of
from mlx_sd.predictor import predictor_of
from mlx_sd.request import Request
from mlx_sd.sampling import loop
from tests.support import families


def completed(sd: StableDiffusion, **settings: Any) -> Request:
    """Returns a completed request of DDIM at guidance 4, with other settings over these."""
    settings = {"sampler": "ddim", "guidance": 4.0, "seed": 2} | settings
    return complete(sd.model, Request(prompt=families.PROMPT, negative=families.NEGATIVE, **settings))


def latents_of(sd: StableDiffusion, request: Request, size: tuple[int, int] = (8, 8)) -> mx.array:
    """Runs the loop of a completed request from the noise of families, over latents of a size."""
    noise = mx.array(families.noise(size))
    return loop.run(table_of(sd.model, request), predictor_of(sd.model, [request]), noise, lambda: noise)
