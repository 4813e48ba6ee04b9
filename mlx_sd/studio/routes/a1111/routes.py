"""A1111's API: pictures of prompts and of images, how far they are, and how they are ended."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .... import model_checks
from ....core.errors import InputError
from ....networks.family import Task
from ...jobs.job import State as JobState
from ...jobs.job import StudioJob
from ...requests.json_text import read_object
from ...requests.submission import read_request
from ...work.studio import Studio
from .. import client_jobs, kept_images
from ..answers import answering_errors, origin_of, studio_of
from ..request_error import RequestError, wrong_input
from . import answers as a1111_answers
from . import requests as a1111_requests
from .fields import IMG2IMG, TXT2IMG, echoed
from .options import Options
from .requests import Order
from .state import Call, State

if TYPE_CHECKING:
    from ...work.making import Maker

errors_as_a1111 = answering_errors(a1111_answers.error_response)


def state_of(request: Request) -> State:
    """Returns what the API remembers; at its first use the default model is chosen."""
    state = getattr(request.app.state, "a1111", None)
    if not isinstance(state, State):
        studio = studio_of(request)
        state = request.app.state.a1111 = State(Options(studio.catalog, studio.default_model))
    return state


# ---------------------------------------------------------------------------------------------------------- pictures


@errors_as_a1111
async def text_to_image(request: Request) -> Response:
    """Makes pictures of a prompt."""
    return await _answer(request, "txt2img")


@errors_as_a1111
async def image_to_image(request: Request) -> Response:
    """Makes pictures of an image, or of the masked part of one."""
    return await _answer(request, "img2img")


async def _answer(request: Request, task: str) -> Response:
    studio, state, values = studio_of(request), state_of(request), await read_object(request)
    origin = origin_of(request)
    order, settings = await asyncio.to_thread(_order, studio, values, state.options, task)
    jobs = await asyncio.to_thread(studio.submit, settings, origin, keep=order.keep, count=order.count)
    if values.get("override_settings_restore_afterwards") is False:
        state.options = order.options
    with state.calling(Call(origin.client, task, jobs)):
        if not await client_jobs.all_ended(studio, request, jobs):
            return Response(status_code=499)  # nobody reads it
    parameters = echoed(values, TXT2IMG if task == "txt2img" else IMG2IMG)
    if not values.get("include_init_images"):
        parameters |= {name: None for name in ("init_images", "mask") if name in parameters}
    return JSONResponse(await asyncio.to_thread(_body, studio, jobs, order, parameters, state.timestamp(origin.client)))


def _order(studio: Studio, values: Mapping[str, Any], options: Options, task: str) -> tuple[Order, dict[str, Any]]:
    """Returns what a call asks for, and its settings with the names of its images, which are kept."""
    decode = functools.partial(decoded, studio)
    styles = studio.styles.listing()
    if task == "txt2img":
        order = a1111_requests.text_to_image(values, options, styles, decode)
    else:
        edits = functools.partial(_edits_by_instruction, studio)
        order = a1111_requests.image_to_image(values, options, styles, decode, edits)
    settings = dict(order.settings)
    for name, image in (("init_image", order.init_image), ("mask", order.mask)):
        if image is not None:
            settings[name] = kept_images.named(studio, image)
    if order.controls:
        settings["controls"] = [
            {**unit.settings, "image": kept_images.named(studio, unit.image)} for unit in order.controls
        ]
    return order, settings


def decoded(studio: Studio, text: object, field: str) -> Image.Image:
    """Returns the pixels of an image in base64 or in a data: URL; RequestError for anything else."""
    if not isinstance(text, str):
        raise RequestError(f"{field} must be an image in base64, or a data: URL", field=field)
    try:
        return kept_images.opened(studio, studio.uploads.from_base64(text.strip()).id)
    except InputError as error:
        raise RequestError(f"{field}: {error}", field=field) from None


def _edits_by_instruction(studio: Studio, model: str) -> bool:
    """Returns whether a model of the catalogue edits images by instruction; its configs alone are read."""
    entry = studio.catalog.model(model)
    return entry.place != "embedded" and model_checks.task_of_checkpoint(entry.source) is Task.INSTRUCTION


def _body(
    studio: Studio, jobs: list[StudioJob], order: Order, parameters: dict[str, Any], timestamp: str
) -> dict[str, Any]:
    """Returns the answer with the pictures that are done; those that were interrupted are missing."""
    ended = [job for job in jobs if job.state is not JobState.CANCELLED or studio.queue.closed]
    pngs = [client_jobs.picture_of(studio, job) for job in ended]
    info = a1111_answers.info(pngs, parameters, timestamp, order.ignored)
    images = [a1111_answers.base64_of(png) for png in pngs] if order.send else []
    return {"images": images, "parameters": parameters, "info": info}


# ---------------------------------------------------------------------------------------------------------- progress


@errors_as_a1111
async def progress(request: Request) -> Response:
    """Answers with how far the client's call is."""
    skipped = request.query_params.get("skip_current_image", "false").lower() in ("true", "1", "yes", "on")
    return JSONResponse(state_of(request).progress(origin_of(request).client, not skipped))


@errors_as_a1111
async def interrupt(request: Request) -> Response:
    """Ends the client's call; its answer has the pictures that are done."""
    state_of(request).interrupt(studio_of(request), origin_of(request).client)
    return JSONResponse({})


@errors_as_a1111
async def skip(request: Request) -> Response:
    """Ends the picture that is being made for the client."""
    state_of(request).skip(studio_of(request), origin_of(request).client)
    return JSONResponse({})


@errors_as_a1111
async def queue_status(request: Request) -> Response:
    """Answers with the length of the queue, by which Krita's plugin sees that a server is there."""
    return JSONResponse({"msg": "estimation", "queue_size": len(studio_of(request).queue.order)})


# ----------------------------------------------------------------------------------------------------------- options


@errors_as_a1111
async def options(request: Request) -> Response:
    """Answers with the options."""
    return JSONResponse(state_of(request).options.to_json())


@errors_as_a1111
async def set_options(request: Request) -> Response:
    """Changes options; answers when the model that they name is loaded, or at once while pictures are made."""
    state, studio = state_of(request), studio_of(request)
    changed = await asyncio.to_thread(state.options.with_values, await read_object(request))
    if changed.checkpoint != state.options.checkpoint or changed.vae != state.options.vae:
        await _load(studio, changed)
    state.options = changed
    return JSONResponse(None)


async def _load(studio: Studio, changed: Options) -> None:
    """Loads the model of options, unless pictures are made or wait: it is loaded before those that name it."""
    try:
        request = read_request(studio, changed.settings)
    except InputError as error:
        raise wrong_input(error, "sd_model_checkpoint") from None

    def load(maker: Maker) -> None:
        """Loads the model, between two jobs alone: a running one needs its own."""
        if studio.queue.running is None and not studio.queue.order:
            maker.model(request)

    future = studio.worker.call(load)
    await asyncio.wait({asyncio.wrap_future(future)})
    if future.cancelled():
        raise RequestError("the server is being stopped; send the request again when it runs", status=503)
    if (problem := future.exception()) is not None:
        message = f"{changed.checkpoint.name} cannot be loaded: {problem}"
        raise RequestError(message, field="sd_model_checkpoint")


ROUTES: list[BaseRoute] = [
    Route("/sdapi/v1/txt2img", text_to_image, methods=["POST"]),
    Route("/sdapi/v1/img2img", image_to_image, methods=["POST"]),
    Route("/sdapi/v1/progress", progress),
    Route("/sdapi/v1/interrupt", interrupt, methods=["POST"]),
    Route("/sdapi/v1/skip", skip, methods=["POST"]),
    Route("/sdapi/v1/options", options, methods=["GET"]),
    Route("/sdapi/v1/options", set_options, methods=["POST"]),
    Route("/queue/status", queue_status),
]
