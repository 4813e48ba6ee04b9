"""The Studio's own routes: its state, jobs, events and styles."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from ... import grid
from ...core.errors import InputError
from ..jobs.events import Subscription
from ..jobs.job import PAGE
from ..requests.json_text import read_object
from ..work import checking
from ..work import state as description
from ..work.sheets import read_axes
from .answers import error, origin_of, studio_of

_OPENAPI = Path(__file__).parent.parent / "openapi.json"
_KEEP_ALIVE = 15.0  # seconds without an event after which a comment is sent


async def state(request: Request) -> Response:
    """Answers with everything that the page needs to begin."""
    return JSONResponse(await asyncio.to_thread(description.of, studio_of(request)))


async def events(request: Request) -> Response:
    """Answers with events as they happen (server-sent events), until the client goes."""
    subscription = studio_of(request).events.subscribe()
    return StreamingResponse(
        _lines(subscription), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _lines(subscription: Subscription) -> AsyncIterator[str]:
    try:
        yield ": hello\n\n"
        while True:
            try:
                event = await asyncio.wait_for(anext(subscription), _KEEP_ALIVE)
            except asyncio.TimeoutError:
                yield ": alive\n\n"
                continue
            except StopAsyncIteration:
                return
            yield f"data: {json.dumps(event)}\n\n"
    finally:
        subscription.close()


async def submit(request: Request) -> Response:
    """Accepts pictures to make, and answers with their jobs."""
    studio, values = studio_of(request), await read_object(request)
    settings, count = values.get("request"), values.get("count", 1)
    if not isinstance(settings, dict):
        raise InputError('the body has no "request", an object with the settings')
    origin = origin_of(request, values.get("client"))
    if values.get("grid") is not None:
        jobs = await asyncio.to_thread(studio.sheets.submit, settings, values["grid"], origin)
        places = {"cells": [cell.places for cell in grid.cells(read_axes(values["grid"]))]}  # of the jobs, x before y
    else:
        jobs = studio.submit(settings, origin, keep=bool(values.get("keep", origin.kind == PAGE)), count=count)
        places = {}
    return JSONResponse({"jobs": [job.to_json() for job in jobs], "group": jobs[0].group, **places}, 202)


async def jobs(request: Request) -> Response:
    """Answers with all jobs: the running one, those that wait, those that ended."""
    return JSONResponse({"jobs": [job.to_json() for job in studio_of(request).queue.listing()]})


async def job(request: Request) -> Response:
    """Answers with one job, or takes it out: DELETE cancels one that has not ended and forgets one that has."""
    studio, id = studio_of(request), request.path_params["id"]
    entry = studio.queue.get(id)
    if entry is None:
        return error("there is no such job; it has ended, or was taken out", 404)
    if request.method == "DELETE":
        await asyncio.to_thread(studio.queue.remove, id)
    return JSONResponse({"job": entry.to_json()})


async def check(request: Request) -> Response:
    """Answers with what is wrong with a request, its tokens and its cost, without making it."""
    settings = (await read_object(request)).get("request")
    if not isinstance(settings, dict):
        raise InputError('the body has no "request", an object with the settings')
    return JSONResponse(await checking.check(studio_of(request), settings))


async def styles(request: Request) -> Response:
    """Answers with the named styles; PUT replaces them."""
    studio = studio_of(request)
    if request.method == "PUT":
        values = (await read_object(request)).get("styles")
        await asyncio.to_thread(studio.styles.replace, values)
    return JSONResponse({"styles": await asyncio.to_thread(studio.styles.listing)})


async def openapi(_request: Request) -> Response:
    """Answers with the description of these routes."""
    return FileResponse(_OPENAPI, media_type="application/json")


async def order(request: Request) -> Response:
    """Puts waiting jobs into another order."""
    ids = (await read_object(request)).get("order")
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        raise InputError('the body has no "order", a list of ids of jobs')
    return JSONResponse({"order": studio_of(request).queue.reorder(ids)})


ROUTES: list[BaseRoute] = [
    Route("/api/state", state),
    Route("/api/events", events),
    Route("/api/jobs", jobs, methods=["GET"]),
    Route("/api/jobs", submit, methods=["POST"]),
    Route("/api/jobs/order", order, methods=["POST"]),
    Route("/api/check", check, methods=["POST"]),
    Route("/api/styles", styles, methods=["GET", "PUT"]),
    Route("/api/openapi.json", openapi),
    Route("/api/jobs/{id}", job, methods=["GET", "DELETE"]),
]
