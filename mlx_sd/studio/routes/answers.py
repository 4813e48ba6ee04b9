"""What routes have in common: the Studio, who asks, and errors as clients see them."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from ...core.errors import Failure, InputError
from ..guard import problems
from ..jobs.job import API, PAGE, Origin
from ..work.studio import Studio

Endpoint = Callable[[Request], Awaitable[Response]]

_PATH = "/api/"  # whose errors have our own shape
_LONGEST_CLIENT = 100  # characters


def studio_of(request: Request) -> Studio:
    """Returns the Studio that a request is for."""
    return cast(Studio, request.app.state.studio)


def error(message: str, status: int) -> Response:
    """Returns an error as our own routes give it: one line, and no setting that it is about."""
    return problems.response(_PATH, status, message)


def origin_of(request: Request, client: object = None) -> Origin:
    """Returns who sends a request. client: the id that a page names; without one it is another program."""
    if isinstance(client, str) and client:
        return Origin(PAGE, client[:_LONGEST_CLIENT])
    address = request.client.host if request.client else ""
    return Origin(API, f"{address} {request.headers.get('user-agent', '')}"[:_LONGEST_CLIENT])


def answering_errors(answer: Callable[[Exception], Response]) -> Callable[[Endpoint], Endpoint]:
    """Returns a decorator for endpoints whose errors of ours become answers of another program's form."""

    def decorated(endpoint: Endpoint) -> Endpoint:
        """Returns an endpoint that answers with what went wrong."""

        @wraps(endpoint)
        async def answered(request: Request) -> Response:
            try:
                return await endpoint(request)
            except (InputError, Failure) as problem:
                return answer(problem)

        return answered

    return decorated
