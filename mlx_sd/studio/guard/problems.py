"""Errors as JSON: one line each, in the shape that the clients of each API read."""

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ...core.errors import Failure, InputError

Handler = Callable[[Request, Exception], Awaitable[Response]]

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_WORDS = {
    404: "there is nothing at this path",
    405: "this path does not take this method",
}


def response(
    path: str, status: int, message: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Returns the answer that says what is wrong, in the shape of the API to which a path belongs.

    field: the setting that the message is about.
    """
    line = " ".join(message.split())
    content = json.dumps(_shape(path, status, line, field), ensure_ascii=True)
    return Response(content, status, headers, "application/json")


def _shape(path: str, status: int, message: str, field: str | None) -> dict[str, Any]:
    if path.startswith("/v1/"):
        kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(status)
        return {"error": {"message": message, "type": kind, "param": field, "code": code}}
    if path.startswith("/sdapi/"):
        name = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Error"
        return {"error": name, "detail": message, "body": "", "errors": message}
    return {"error": {"message": message, "field": field}}


def handlers() -> dict[Any, Handler]:
    """Returns the handlers of the errors that routes raise on purpose, for Starlette's `exception_handlers`.

    An error with `retry_after` in seconds (the queue is full) is 429, InputError is 400, with its `field` where it has
    one, and Failure is 503. The guard answers every other error.
    """
    return {HTTPException: _http, InputError: _input, Failure: _failure}


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code in _WORDS and message == HTTPStatus(error.status_code).phrase:
        message = _WORDS[error.status_code]
    return response(request.scope["path"], error.status_code, message, headers=error.headers)


async def _input(request: Request, error: Exception) -> Response:
    return _named(request, error, 400)


async def _failure(request: Request, error: Exception) -> Response:
    return _named(request, error, 503)


def _named(request: Request, error: Exception, status: int) -> Response:
    """Returns the answer to an error of ours: what it says, its field, and when to try again."""
    seconds = getattr(error, "retry_after", None)
    headers = None if seconds is None else {"retry-after": str(max(1, round(seconds)))}
    status = status if seconds is None else 429
    field = getattr(error, "field", None)
    return response(request.scope["path"], status, str(error), field=field, headers=headers)
