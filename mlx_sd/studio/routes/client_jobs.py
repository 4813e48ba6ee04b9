"""Jobs for a client that waits for its pictures: they end when it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request as HttpRequest

from ...core.errors import Failure, InputError
from ...request import Request
from ..jobs.job import State, StudioJob
from ..requests import prompt_tokens as tokens
from .request_error import RequestError

if TYPE_CHECKING:
    from ..work.studio import Studio

_POLL = 0.5  # seconds between two looks at whether the client is still there


async def all_ended(studio: Studio, request: HttpRequest, jobs: Sequence[StudioJob]) -> bool:
    """Waits until jobs have ended; False where the client went away, with whom they are cancelled."""
    waiting = asyncio.gather(*(studio.queue.finished(job.id) for job in jobs))
    try:
        while not (await asyncio.wait({waiting}, timeout=_POLL))[0]:
            if await request.is_disconnected():
                return False
        waiting.result()
        return True
    finally:
        waiting.cancel()
        studio.queue.cancel_group(jobs[0].group)  # those that have ended stay as they are


def picture_of(studio: Studio, job: StudioJob) -> bytes:
    """Returns the PNG of a job that is done; RequestError says why there is none. It may be taken once."""
    if job.state is State.DONE:
        return _kept_file(studio, job) if job.keep else _result(studio, job)
    if studio.queue.closed:
        message = "the server is being stopped; send the request again when it runs"
        raise RequestError(message, status=503, code="server_stopping")
    if job.state is State.CANCELLED:
        raise RequestError("the picture was cancelled before it was done", code="cancelled")
    raise RequestError(job.error or "the picture could not be made", field=job.field, code="generation_failed")


def _result(studio: Studio, job: StudioJob) -> bytes:
    result = studio.queue.take_result(job)
    if result is None:
        raise RequestError("the picture is gone; ask for it again", code="generation_failed")
    return result


def _kept_file(studio: Studio, job: StudioJob) -> bytes:
    try:
        return (studio.folder / str(job.target)).read_bytes()
    except OSError as error:
        raise Failure(f"{job.target} cannot be read: {error.strerror}") from None


def prompt_tokens(request: Request) -> int:
    """Returns the tokens of a request's prompt, special ones not counted; 0 where its model reads no prompt."""
    try:
        prompt = tokens.of(request)["prompt"]
    except InputError:
        return 0
    return 0 if prompt is None else sum(chunk["length"] for chunk in prompt["chunks"])
