"""OpenAI's Images API: models, generations, edits and variations."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import ImageChops
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ....core.errors import Failure, InputError
from ...models.catalog import ModelEntry
from ...pictures.uploads import Upload
from ...requests.forms import form_of
from ...requests.json_text import read_object
from ...work.studio import Studio
from .. import client_jobs, kept_images
from ..answers import answering_errors, origin_of, studio_of
from ..request_error import RequestError
from . import answers as openai_answers
from . import requests as openai_requests
from .requests import Order
from .stream import PictureStream

_GENERATION, _EDIT = "image_generation", "image_edit"
_STRENGTH = 0.6  # of a variation: how much of the image changes

_errors_as_openai = answering_errors(openai_answers.error_response)


# ----------------------------------------------------------------------------------------------------------- models


@_errors_as_openai
async def models(request: Request) -> Response:
    """Answers with the list of models."""
    entries = await asyncio.to_thread(studio_of(request).catalog.models)
    return JSONResponse({"object": "list", "data": [_model(entry) for entry in entries]})


@_errors_as_openai
async def model(request: Request) -> Response:
    """Answers with one model, by its id or its name."""
    return JSONResponse(_model(_entry(studio_of(request), request.path_params["id"])))


def _model(entry: ModelEntry) -> dict[str, Any]:
    try:
        created = int(entry.path.stat().st_mtime)
    except OSError:  # a name of the hub
        created = 0
    return {"id": entry.id, "object": "model", "created": created, "owned_by": "mlx-sd"}


def _entry(studio: Studio, name: str) -> ModelEntry:
    """Returns the model of a name; OpenAI's own names are the default model. RequestError 404 for an unknown one."""
    if openai_requests.is_hosted(name):
        return studio.default_model
    try:
        return studio.catalog.model(name)
    except InputError as error:
        raise RequestError(str(error), status=404, field="model", code="model_not_found") from None


# ---------------------------------------------------------------------------------------------------------- pictures


@_errors_as_openai
async def generations(request: Request) -> Response:
    """Makes pictures of a prompt."""
    return await _answer(request, openai_requests.generation(await read_object(request)), {}, _GENERATION)


@_errors_as_openai
async def edits(request: Request) -> Response:
    """Changes an image: all of it, or the part that its mask or its own transparency shows."""
    fields, files = await _form(request)
    if "prompt" not in fields:
        raise openai_requests.missing("prompt", "say what the picture shows")
    order = openai_requests.edit(fields)
    studio, images = studio_of(request), [*files.get("image", ()), *files.get("image[]", ())]
    if not images:
        raise openai_requests.missing("image", "send the picture to change")
    image = await asyncio.to_thread(_kept, studio, images[0], "image")
    settings = {"init_image": f"upload:{image.id}"}
    if masks := files.get("mask"):
        settings["mask"] = await asyncio.to_thread(_mask, studio, masks[0], image)
    elif image.transparent and await asyncio.to_thread(_has_holes, studio, image):
        settings["mask"] = "alpha"
    if len(images) > 1:  # OpenAI's models look at all of them
        others = (f"image {number}" for number in range(2, len(images) + 1))
        order = replace(order, ignored=(*order.ignored, *others))
    return await _answer(request, order, settings, _EDIT)


@_errors_as_openai
async def variations(request: Request) -> Response:
    """Makes pictures that resemble an image."""
    fields, files = await _form(request)
    order = openai_requests.edit(fields)
    if not (images := files.get("image")):
        raise openai_requests.missing("image", "send the picture to vary")
    studio = studio_of(request)
    image = await asyncio.to_thread(_kept, studio, images[0], "image")
    order = replace(order, settings={"prompt": "", "strength": _STRENGTH, **order.settings})
    return await _answer(request, order, {"init_image": f"upload:{image.id}"}, _EDIT)


async def _answer(request: Request, order: Order, settings: Mapping[str, Any], kind: str) -> Response:
    """Makes the pictures of an order, and answers with them or with their events."""
    studio = studio_of(request)
    values = {**order.settings, **settings}
    entry = _entry(studio, values["model"]) if "model" in values else studio.default_model
    values["model"] = entry.id
    subscription = studio.events.subscribe() if order.stream else None
    try:
        jobs = await asyncio.to_thread(studio.submit, values, origin_of(request), keep=False, count=order.count)
    except (InputError, Failure):
        if subscription is not None:
            subscription.close()
        raise
    if subscription is not None:
        return PictureStream(studio, jobs, subscription, order, kind)
    if not await client_jobs.all_ended(studio, request, jobs):
        return Response(status_code=499)  # nobody reads it
    pngs = [client_jobs.picture_of(studio, job) for job in jobs]
    seeds = [job.request.seed for job in jobs]
    tokens = await asyncio.to_thread(client_jobs.prompt_tokens, jobs[0].request)
    return JSONResponse(await asyncio.to_thread(openai_answers.pictures, pngs, seeds, order, tokens))


async def _form(request: Request) -> tuple[dict[str, str], dict[str, list[bytes]]]:
    """Returns the text fields and the files of a form, by their names."""
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    async with form_of(request) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.setdefault(name, []).append(await value.read())
            elif name in fields:
                raise RequestError(f"{name} is there twice; leave one of them out", field=name)
            else:
                fields[name] = value
    return fields, files


def _kept(studio: Studio, data: bytes, field: str) -> Upload:
    try:
        upload: Upload = studio.uploads.from_bytes(data)
    except InputError as error:
        raise RequestError(f"{field}: {error}", field=field, code="invalid_image") from None
    return upload


def _mask(studio: Studio, data: bytes, image: Upload) -> str:
    """Returns the name of the mask, white where OpenAI's is transparent."""
    mask = _kept(studio, data, "mask")
    if not mask.transparent:
        message = "mask has no transparency; make transparent what is to change"
        raise RequestError(message, field="mask", code="invalid_image")
    if (mask.width, mask.height) != (image.width, image.height):
        message = f"mask is {mask.width} x {mask.height} and image {image.width} x {image.height}; make them one size"
        raise RequestError(message, field="mask", code="invalid_image")
    return kept_images.named(studio, ImageChops.invert(kept_images.opened(studio, mask.id).getchannel("A")))


def _has_holes(studio: Studio, image: Upload) -> bool:
    """Returns whether a part of an image, and not all of it, is transparent enough to be painted."""
    shades = kept_images.opened(studio, image.id).getchannel("A").histogram()
    return any(shades[:128]) and any(shades[128:])


ROUTES: list[BaseRoute] = [
    Route("/v1/models", models),
    Route("/v1/models/{id:path}", model),
    Route("/v1/images/generations", generations, methods=["POST"]),
    Route("/v1/images/edits", edits, methods=["POST"]),
    Route("/v1/images/variations", variations, methods=["POST"]),
]
