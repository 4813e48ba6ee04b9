"""What a client is told about a request before it asks for the picture: mistakes, tokens, defaults, and the cost."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...core.errors import Failure, InputError
from ...request import Request
from ..requests import prompt_tokens
from ..requests.shown import shown_text
from ..requests.submission import FieldError, field_of, read_fields, read_request

if TYPE_CHECKING:
    from ...checkpoint.model import Model
    from .making import Maker
    from .studio import Studio

_PATIENCE = 3.0  # seconds to wait for the worker, which answers between two evaluations
_MOST = 256  # costs that are remembered


async def check(studio: "Studio", values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns errors by field, the tokens of the prompts, the completed settings and the predicted cost.

    What cannot be known now is None: the cost of a model that is not converted yet, or while the worker is in a long
    evaluation.
    """
    answer: dict[str, Any] = {"errors": [], "prompt": None, "negative": None, "completed": None, "cost": None}
    try:
        request = read_request(studio, values)
    except FieldError as error:
        fields, errors = read_fields(studio, values)
        answer["errors"] = [_shown(problem) for problem in errors or [error]]
        names = ("prompt", "negative", "prompt_style", "model")
        request = Request(**{"model": studio.default_model.source} | {k: v for k, v in fields.items() if k in names})
    try:
        answer |= await asyncio.to_thread(prompt_tokens.of, request)
    except InputError as problem:
        answer["errors"].append(_shown(FieldError(str(problem), "prompt")))
    if answer["errors"]:
        return answer
    try:
        future = asyncio.wrap_future(studio.worker.call(lambda maker: _counted(studio, maker, request)))
        answer |= await asyncio.wait_for(future, _PATIENCE)
    except (asyncio.TimeoutError, asyncio.CancelledError, Failure, RuntimeError, OSError):
        return answer
    except InputError as problem:
        answer["errors"].append(_shown(FieldError(str(problem), field_of(str(problem)))))
    return answer


def _shown(error: FieldError) -> dict[str, Any]:
    return {"field": error.field, "message": shown_text(str(error))}


def _counted(studio: "Studio", maker: "Maker", request: Request) -> dict[str, Any]:
    """Returns the completed settings and the cost of a request; runs in the worker's thread."""
    from ... import cost
    from ...completion import complete, preset_of

    model = _outline(maker, request.model)
    if model is None or request.coreml:
        return {}
    plain = cost.without_reuse(request)
    key = "cost", request.with_values(prompt=None if request.prompt is None else "", negative=None, seed=None)
    if key not in maker.cache:
        if len(maker.cache) > _MOST:
            maker.cache.clear()
        counted = cost.cost_of(model, request)
        maker.cache[key] = counted, counted if plain == request else cost.cost_of(model, plain)
    reused, plain_cost = maker.cache[key]
    completed = complete(model, request.with_values(**cost.BESIDE))
    evidence = None if request.speed is None else preset_of(model, request.speed).evidence
    answer: dict[str, Any] = {"completed": studio.show(completed)}
    if reused is not None and plain_cost is not None:
        answer["cost"] = {
            "evaluations": reused.evaluations,
            "full": reused.full,
            "macs": reused.macs,
            "macs_plain": plain_cost.macs,
            "share": round(reused.macs / plain_cost.macs, 4),
            "evidence": evidence,
        }
    return answer


def _outline(maker: "Maker", source: str) -> "Model | None":
    """Returns a model without weights, remembered; None where it is not converted yet."""
    from ...load import outline

    key = "outline", source
    if maker.cache.get(key) is None:
        maker.cache[key] = outline(source)
    model: Model | None = maker.cache[key]
    return model
