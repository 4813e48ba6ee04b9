"""A stream of OpenAI's Images API: previews while pictures are made, then the pictures."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ....core.errors import Failure, InputError
from ...jobs.events import Event, Subscription
from ...jobs.job import StudioJob
from ..client_jobs import picture_of, prompt_tokens
from . import answers as openai_answers
from .pictures import encoded, shown_preview, size_of
from .requests import Order

if TYPE_CHECKING:
    from ...work.studio import Studio

_QUIET = 10.0  # seconds without an event, after which a comment keeps the connection alive


class PictureStream(StreamingResponse):
    """The events of the jobs of one call; when the client goes away, its jobs are cancelled."""

    def __init__(
        self,
        studio: Studio,
        jobs: Sequence[StudioJob],
        subscription: Subscription,
        order: Order,
        kind: str,
    ):
        """subscription: from before the jobs were accepted. kind: "image_generation" or "image_edit"."""
        self._studio, self._jobs, self._subscription = studio, jobs, subscription
        self._order, self._kind = order, kind
        self._reading: asyncio.Future[Event] | None = None  # of the next event
        super().__init__(self._events(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:  # also where the client went before the first event
            self._subscription.close()
            if self._reading is not None:
                self._reading.cancel()
            self._studio.queue.cancel_group(self._jobs[0].group)

    async def _events(self) -> AsyncIterator[str]:
        order = self._order
        try:
            for job in self._jobs:
                async for event in self._partial_events(job):
                    yield event
                png = await asyncio.to_thread(picture_of, self._studio, job)
                picture = await asyncio.to_thread(encoded, png, order.format, order.quality)
                tokens = await asyncio.to_thread(prompt_tokens, job.request)
                about: dict[str, Any] = {"usage": openai_answers.usage(tokens), "seed": job.request.seed}
                if order.ignored:
                    about["ignored"] = list(order.ignored)
                yield openai_answers.event(f"{self._kind}.completed", picture, order, size_of(png), about)
        except (InputError, Failure) as problem:
            yield openai_answers.server_sent(openai_answers.error(problem))

    async def _partial_events(self, job: StudioJob) -> AsyncIterator[str]:
        """Yields events until a job has ended: its partial images, and comments where nothing happens for long."""
        finished = asyncio.ensure_future(self._studio.queue.finished(job.id))
        index, count, newest = 0, self._order.partial_images, None
        try:
            while True:
                event = await self._next(finished)
                if event is None and finished.done():
                    break
                if event is None:
                    yield ": waiting\n\n"
                    continue
                evaluation, evaluations, image = _progress(event, job)
                newest = image or newest
                if (
                    newest
                    and index < self._order.partial_images
                    and _is_due(index, self._order.partial_images, evaluation, evaluations)
                ):
                    yield await self._partial_event(job, index, newest)
                    index, newest = index + 1, None
            if newest and index < count:
                yield await self._partial_event(job, index, newest)
        finally:
            finished.cancel()

    async def _partial_event(self, job: StudioJob, index: int, image: str) -> str:
        order, request = self._order, job.completed or job.request
        size = None if request.width is None or request.height is None else (request.width, request.height)
        data = base64.b64decode(image)
        picture = await asyncio.to_thread(shown_preview, data, size, order.format, order.quality)
        words = "auto" if size is None else f"{size[0]}x{size[1]}"
        return openai_answers.event(
            f"{self._kind}.partial_image", picture, order, words, {"partial_image_index": index}
        )

    async def _next(self, finished: asyncio.Future[StudioJob]) -> Event | None:
        """Returns the next event; None where the job has ended and no event is left, or after a quiet time."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(anext(self._subscription))
            await asyncio.sleep(0)  # so that an event that is there already is read
        if not self._reading.done() and not finished.done():
            waited: set[asyncio.Future[Any]] = {self._reading, finished}
            await asyncio.wait(waited, timeout=_QUIET, return_when=asyncio.FIRST_COMPLETED)
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        try:
            return reading.result()
        except StopAsyncIteration:  # cut off as too slow: there are no partial images any more
            await asyncio.wait({finished}, timeout=_QUIET)
            return None


def _progress(event: Event, job: StudioJob) -> tuple[int, int, str | None]:
    """Returns how many evaluations of a job are over, of how many, and the preview in an event where it has one."""
    if event["type"] == "preview" and event["id"] == job.id:
        return event["evaluation"], event["evaluations"], event["image"]
    if event["type"] == "job" and event["job"]["id"] == job.id:
        return event["job"]["evaluation"] - 1, event["job"]["evaluations"], None  # its preview comes later
    return 0, 1, None


def _is_due(index: int, count: int, evaluation: int, evaluations: int) -> bool:
    """Returns whether partial image number `index` of `count` is due: they lie evenly over the evaluations."""
    return evaluation * (count + 1) >= evaluations * (index + 1)
