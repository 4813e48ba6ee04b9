"""Answers in the form of OpenAI's Images API: pictures, events of a stream, errors."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from ....core.errors import Failure, InputError
from ...guard import problems
from ..request_error import RequestError
from .pictures import encoded, size_of
from .requests import Order

_PATH = "/v1/"  # whose errors have the shape of OpenAI's
QUEUE_FULL = "queue_full"


def usage(tokens: int) -> dict[str, Any]:
    """Returns the usage of a call: the tokens of its prompt; images have none here."""
    details = {"text_tokens": tokens, "image_tokens": 0}
    return {"input_tokens": tokens, "input_tokens_details": details, "output_tokens": 0, "total_tokens": tokens}


def pictures(pngs: Sequence[bytes], seeds: Sequence[int | None], order: Order, tokens: int) -> dict[str, Any]:
    """Returns the answer with all pictures of a call."""
    data = [
        {"b64_json": _base64(encoded(png, order.format, order.quality)), "seed": seed}
        for png, seed in zip(pngs, seeds, strict=True)
    ]
    answer: dict[str, Any] = {"created": int(time.time()), "data": data, **_about(order, size_of(pngs[0]))}
    answer["usage"] = usage(tokens)
    return {**answer, "ignored": list(order.ignored)} if order.ignored else answer


def event(kind: str, picture: bytes, order: Order, size: str, about: Mapping[str, Any]) -> str:
    """Returns an event of a stream with a picture. about: what the event has beside it, such as its index."""
    shared = {"created_at": int(time.time()), **_about(order, size), "quality": "auto"}
    return server_sent({"type": kind, "b64_json": _base64(picture), **shared, **about}, kind)


def server_sent(data: Mapping[str, Any], kind: str | None = None) -> str:
    """Returns an event of text/event-stream."""
    line = f"event: {kind}\n" if kind else ""
    return f"{line}data: {json.dumps(data)}\n\n"


def error(problem: Exception) -> dict[str, Any]:
    """Returns the body of an answer about an error of ours."""
    status = status_of(problem)
    code = getattr(problem, "code", None) or (QUEUE_FULL if status == 429 else None)
    return problems.shape(_PATH, status, str(problem), getattr(problem, "field", None), code)


def error_response(problem: Exception) -> Response:
    """Returns the answer to an error of ours; clients of OpenAI try again after 429 and 503, and at no other."""
    return JSONResponse(error(problem), status_of(problem), problems.retry_headers(problem))


def status_of(problem: Exception) -> int:
    """Returns the HTTP status of an error of ours."""
    if isinstance(problem, RequestError):
        return problem.status
    if getattr(problem, "retry_after", None) is not None:
        return 429
    return 400 if isinstance(problem, InputError) else 503 if isinstance(problem, Failure) else 500


def _about(order: Order, size: str) -> dict[str, Any]:
    return {"background": "opaque", "output_format": order.format, "size": size}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
