"""What a client is told where a request cannot be met: one line, an HTTP status, and which field it is about."""

from __future__ import annotations

from ...core.errors import InputError


class RequestError(InputError):
    """A request that cannot be met.

    message: one line with the way out. field: the client's name of what is wrong, where one can be named. code: a word
    for programs. retry_after: seconds after which to ask again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        field: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.message, self.status, self.field, self.code = message, status, field, code
        self.retry_after = retry_after


def wrong_input(error: InputError, field: str | None = None) -> RequestError:
    """Returns the error of a client for an error of the library; its field, where it names one, is the library's."""
    return RequestError(str(error), field=field or getattr(error, "field", None))
