"""What routes have in common: JSON that is read and written, and errors as clients see them."""

from collections.abc import Mapping
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...core.errors import Failure, InputError
from ..jobs.job import API, PAGE, Origin
from ..jobs.job_queue import QueueFull
from ..requests.json_text import read_object
from ..requests.submission import FieldError
from ..work.studio import Studio

_LONGEST_CLIENT = 100  # characters


def studio_of(request: Request) -> Studio:
    """Returns the Studio that a request is for."""
    return cast(Studio, request.app.state.studio)


async def json_of(request: Request) -> dict[str, Any]:
    """Returns the JSON object in a request's body; InputError for anything else."""
    return await read_object(request)


def error(message: str, status: int, field: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """Returns an error as our own routes give it: one line, and the setting that it is about."""
    return JSONResponse({"error": {"message": message, "field": field}}, status, headers=headers)


def origin_of(request: Request, client: object = None) -> Origin:
    """Returns who sends a request. client: the id that a page names; without one it is another program."""
    if isinstance(client, str) and client:
        return Origin(PAGE, client[:_LONGEST_CLIENT])
    address = request.client.host if request.client else ""
    return Origin(API, f"{address} {request.headers.get('user-agent', '')}"[:_LONGEST_CLIENT])


async def on_input_error(_request: Request, problem: Exception) -> Response:
    """Returns the answer to wrong input."""
    return error(str(problem), 400, problem.field if isinstance(problem, FieldError) else None)


async def on_failure(_request: Request, problem: Exception) -> Response:
    """Returns the answer where the queue is full, or where the server cannot do what was asked."""
    if isinstance(problem, QueueFull):
        return error(str(problem), 429, headers={"Retry-After": str(problem.retry_after)})
    return error(str(problem), 503)


async def on_http_error(_request: Request, problem: Exception) -> Response:
    """Returns the answer to an unknown address or a wrong method."""
    assert isinstance(problem, HTTPException)
    return error(problem.detail, problem.status_code, headers=problem.headers)


HANDLERS: dict[Any, Any] = {
    InputError: on_input_error,
    Failure: on_failure,
    HTTPException: on_http_error,
}
