"""What a picture costs, predicted: multiply-accumulates of the UNet, counted from shapes without computing anything."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx

from .checkpoint.model import Model
from .completion import complete, starting_point, table_of
from .conditions import conditions_of
from .hires import second_pass
from .networks.counting import counting
from .networks.tokens import TokenUNet
from .predictor import Predictor, latent_shape, pixel_size, predictor_of
from .request import Request
from .reuse.feature_cache import FeatureCache
from .sampling.loop import evaluate
from .sampling.table import Table
from .tasks.token_canvas import painted_tokens
from .token_plan import plan_of

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
    "tuning": None,
}
_SAVING = (
    "speed",
    "deepcache",
    "tgate",
    "guidance_interval",
    "adaptive_guidance",
    "unconditional_refresh",
    "token_downsampling",
)


class Pass(NamedTuple):
    """One pass over the steps, of two with hires fix: its completed request, and what each evaluation costs."""

    request: Request
    macs: tuple[int, ...]  # multiply-accumulates of each evaluation
    full: int  # evaluations that run the whole UNet
    guided: tuple[bool, ...]  # whether each evaluation is guided, where the rows are
    attended: tuple[int, ...]  # bytes of each layer's attention that T-GATE keeps from its gate on, of one row


@dataclass(frozen=True)
class Cost:
    """The evaluations of a picture, how many of them run the whole UNet, and the multiply-accumulates of all."""

    evaluations: int
    full: int
    macs: int


def cost_of(model: Model, request: Request) -> Cost | None:
    """Returns what the picture of a request costs on a model, whose weights are not needed.

    The UNet alone is counted, with its second pass of hires fix; not networks beside it, encoders and decoder. None
    where the picture decides which evaluations are whole or guided. InputError where the request does not fit.
    """
    completed = complete(model, request.with_values(**BESIDE))
    if completed.decides_per_image:
        return None
    passes = passes_of(model, completed)
    evaluations = sum(len(part.macs) for part in passes)
    return Cost(evaluations, sum(part.full for part in passes), sum(sum(part.macs) for part in passes))


def passes_of(model: Model, completed: Request) -> list[Pass]:
    """Returns what each evaluation of a completed request costs, counted as `cost_of` does.

    The images must not decide which evaluations run the whole UNet, or are guided.
    """
    if model.tokens is not None:
        return [_token_pass(model, model.tokens.network, completed)]
    passes = [_pass(model, completed, table_of(model, completed))]
    if (second := second_pass(model, completed)) is not None:
        passes.append(_pass(model, completed.with_values(**second.changes), second.table))
    return passes


def without_reuse(request: Request) -> Request:
    """Returns the request that computes everything: it guides all steps, attends to all tokens and reuses nothing."""
    return request.with_values(**dict.fromkeys(_SAVING))


def _pass(model: Model, request: Request, table: Table) -> Pass:
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
    guided = tuple(predictor.guides(i) for i in range(len(kinds)))
    return Pass(request, tuple(by_kind[kind] for kind in kinds), full, guided, tuple(predictor.attended))


def _token_pass(model: Model, network: TokenUNet, request: Request) -> Pass:
    """Counts the calls of a network over tokens: a full one, and a cached one where there are such."""
    painted = painted_tokens(model, starting_point(model, request), pixel_size(request))
    calls = len(plan_of(model, request, painted).calls)
    cache = FeatureCache(request.deepcache, [0.0] * calls)
    full = [cache.is_full(i) for i in range(calls)]
    with counting(network) as operations:
        rows = conditions_of(model, [request])
        tokens, time = mx.zeros((rows.copies, *latent_shape(model, request)[:2]), mx.int32), mx.array(1.0)
        depth = request.deepcache.branch + 1 if request.deepcache else 1
        ends = [len(operations)]
        _, deep = network(tokens, time, rows.context, depth=depth)
        ends.append(len(operations))
        if not all(full):
            network(tokens, time, rows.context, deep=deep, depth=depth)
        ends.append(len(operations))
    counts = [sum(operation.macs for operation in operations[a:b]) for a, b in pairwise(ends)]
    macs = tuple(counts[0] if entry else counts[1] for entry in full)
    return Pass(request, macs, sum(full), (rows.guided,) * calls, ())


def _kind(predictor: Predictor, request: Request, evaluation: int) -> tuple[bool, ...]:
    """Returns what distinguishes the multiplications of an evaluation from those of others."""
    tgate = request.tgate
    full, guided = predictor.deepcache.is_full(evaluation), predictor.guides(evaluation)
    alone = predictor.leaves_out_unconditional(evaluation)
    kind = full, guided, alone, predictor.downsamples_tokens(evaluation)
    return (*kind, *((tgate.drops_guidance(evaluation), tgate.computes_self_attention(evaluation)) if tgate else ()))


def _channels(model: Model, request: Request) -> mx.array | None:
    """Returns zeros for what the UNet is shown beside the latents, None where that is nothing."""
    height, width, _ = latent_shape(model, request)
    count = model.additional_channels
    return mx.zeros((1, height, width, count)) if count else None
