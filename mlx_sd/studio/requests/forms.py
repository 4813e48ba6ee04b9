"""Forms of clients (multipart): bounded in number, refused where they end too early, and closed in any case."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ...core.errors import InputError

FILES, FIELDS = 8, 40


class _Parser(MultiPartParser):
    """Notes whether the last boundary has come; without it, Starlette takes what has come for the form."""

    is_complete = False

    def on_end(self) -> None:
        """Notes that the last boundary of the form has come."""
        self.is_complete = True

    def close(self) -> None:
        """Closes the temporary files of all parts, those too that have not come to their end."""
        for file in self._files_to_close_on_error:
            file.close()


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """Reads the form in a request's body, whose files are there inside the block; InputError where it is damaged."""
    parser = _Parser(request.headers, request.stream(), max_files=FILES, max_fields=FIELDS)
    try:
        form = await parser.parse()
        if not parser.is_complete:
            raise InputError("the form is damaged or ends too early")
        yield form
    except MultiPartException as error:
        raise InputError(f"the form cannot be read: {error.message}") from None
    except FormParserError:
        raise InputError("the form is damaged or ends too early") from None
    finally:
        parser.close()
