"""Routes of the models: what is installed, what is being installed, and both changed."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ... import model_list
from ...core.errors import InputError
from ..models.catalog import ModelEntry
from ..requests.json_text import read_object
from ..work.studio import Studio
from .answers import error, studio_of


async def listing(request: Request) -> Response:
    """Answers with all that is installed, by its kind, and with the installations."""
    studio = studio_of(request)
    catalogue = await asyncio.to_thread(studio.catalog.to_json)
    return JSONResponse({"installed": catalogue, "installations": [e.to_json() for e in studio.installer.listing()]})


async def install(request: Request) -> Response:
    """Queues the installation of a model of the hub, {"hub": "owner/name"}."""
    entry = studio_of(request).installer.submit((await read_object(request)).get("hub"))
    return JSONResponse({"installation": entry.to_json()}, 202)


async def cancel(request: Request) -> Response:
    """Ends an installation, or forgets one that has ended."""
    entry = await asyncio.to_thread(studio_of(request).installer.cancel, request.path_params["id"])
    if entry is None:
        return error("there is no such installation; it was forgotten, or the server was started again", 404)
    return JSONResponse({"installation": entry.to_json()})


async def rescan(request: Request) -> Response:
    """Looks again at what is installed, and answers with it."""
    studio = studio_of(request)
    await asyncio.to_thread(studio.catalog.rescan)
    studio.events.publish({"type": "models"})
    return await listing(request)


async def remove(request: Request) -> Response:
    """Removes a model of the cache, unless a job or the worker uses it."""
    studio, id = studio_of(request), request.path_params["id"]
    entry = next((e for e in await asyncio.to_thread(studio.catalog.networks) if e.id == id), None)
    if entry is None:
        return error("there is no such model; it was removed already", 404)
    if not entry.removable:
        raise InputError(f"{entry.title} is not in the cache of converted models, and only those are removed here")
    if user := _user(studio, entry):
        return error(f"{entry.title} is used by {user}; it can be removed later", 409)
    await asyncio.to_thread(_remove, studio, entry)
    return JSONResponse({"removed": entry.id})


def _user(studio: Studio, entry: ModelEntry) -> str | None:
    """Returns what uses a model at the moment, in words; None where nothing does."""
    if entry.id in (studio.worker.model, studio.worker.loading):
        return "the worker, which has it loaded"
    if studio.default_model.id == entry.id:
        return "this server, as its default model"
    for job in studio.queue.listing():
        if not job.state.is_end and entry.source in _names(job.request.to_json()):
            return f"a job that is {job.state.value}"
    return None


def _names(value: object) -> set[str]:
    """Returns all texts in a JSON value."""
    if isinstance(value, dict):
        return {text for inner in value.values() for text in _names(inner)}
    if isinstance(value, list):
        return {text for inner in value for text in _names(inner)}
    return {value} if isinstance(value, str) else set()


def _remove(studio: Studio, entry: ModelEntry) -> None:
    listed = next((e for e in model_list.cached() if e.path == entry.path), None)
    if listed is not None:
        model_list.remove(listed)
    studio.catalog.rescan()
    studio.events.publish({"type": "models"})


ROUTES: list[BaseRoute] = [
    Route("/api/models", listing, methods=["GET"]),
    Route("/api/models", install, methods=["POST"]),
    Route("/api/models/rescan", rescan, methods=["POST"]),
    Route("/api/models/{id}", remove, methods=["DELETE"]),
    Route("/api/installations/{id}", cancel, methods=["DELETE"]),
]
