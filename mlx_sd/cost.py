"""What a picture costs, predicted: multiply-accumulates of the UNet, counted from shapes without computing anything."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mlx.core as mx

from .checkpoint.model import Model
from .completion import complete, table_of
from .generation import latent_shape, predictor_of
from .hires import second_pass
from .networks.counting import counting
from .predictor import Predictor
from .request import Request
from .sampling.loop import evaluate
from .sampling.table import Table

# Networks beside the UNet, and what takes an image apart: they are not counted.
BESIDE: dict[str, Any] = {
    "controls": (),
    "guess_mode": None,
    "adapters": (),
    "adapter_factor": None,
    "ip_adapters": (),
    "ip_encoder": None,
    "refiner": None,
    "refine_at": None,
    "vae": None,
    "loras": (),
    "lora_mode": None,
    "quantize": None,
}
_REUSE: dict[str, Any] = {"speed": None, "deepcache": None, "tgate": None}


@dataclass(frozen=True)
class Cost:
    """The evaluations of a picture, how many of them run the whole UNet, and the multiply-accumulates of all."""

    evaluations: int
    full: int
    macs: int


def cost_of(model: Model, request: Request) -> Cost | None:
    """Returns what the picture of a request costs on a model, whose weights are not needed.

    The UNet alone is counted, with its second pass of hires fix; not networks beside it, encoders and decoder. None
    where the number of whole evaluations depends on the picture. InputError where the request does not fit the model.
    """
    completed = complete(model, request.with_values(**BESIDE))
    if completed.deepcache and completed.deepcache.decides_per_image:
        return None
    passes = [(completed, table_of(model, completed))]
    if (second := second_pass(model, completed)) is not None:
        passes.append((completed.with_values(**second.changes), second.table))
    costs = [_cost(model, part, table) for part, table in passes]
    return Cost(sum(c.evaluations for c in costs), sum(c.full for c in costs), sum(c.macs for c in costs))


def without_reuse(request: Request) -> Request:
    """Returns the request that computes everything: without DeepCache, T-GATE and a preset of both."""
    return request.with_values(**_REUSE)


def _cost(model: Model, request: Request, table: Table) -> Cost:
    """Counts one pass; only as many evaluations are run, on shapes, as there are different ones."""
    small = request.with_values(denoise_tile=0)
    with counting(model.unet) as operations:
        predictor = predictor_of(model, [small], _channels(model, small), table)
        assert isinstance(predictor, Predictor)
        kinds = [_kind(predictor, request, i) for i in range(len(table.rows))]
        last = max(kinds.index(kind) for kind in set(kinds))
        noise = mx.zeros((1, *latent_shape(model, small)))
        image = None if table.image_scale is None else noise
        ends = [len(operations)]
        for _ in evaluate(table, predictor, noise, lambda: noise, image):
            ends.append(len(operations))
            if len(ends) - 2 == last:
                break
    counts = [sum(operation.macs for operation in operations[a:b]) for a, b in pairwise(ends)]
    by_kind = {kinds[i]: counts[i] for i in reversed(range(last + 1))}
    full = sum(predictor.deepcache.is_full(i) for i in range(len(kinds)))
    return Cost(len(kinds), full, sum(by_kind[kind] for kind in kinds))


def _kind(predictor: Predictor, request: Request, evaluation: int) -> tuple[bool, ...]:
    """Returns what distinguishes the multiplications of an evaluation from those of others."""
    tgate = request.tgate
    full = predictor.deepcache.is_full(evaluation)
    return (full, *((tgate.drops_guidance(evaluation), tgate.computes_self_attention(evaluation)) if tgate else ()))


def _channels(model: Model, request: Request) -> mx.array | None:
    """Returns zeros for what the UNet is shown beside the latents, None where that is nothing."""
    height, width, _ = latent_shape(model, request)
    count = model.additional_channels
    return mx.zeros((1, height, width, count)) if count else None
