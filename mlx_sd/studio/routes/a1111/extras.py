"""A1111's extras: finished pictures made larger, by an upscaler's network or without one."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ....core.suggestions import unknown
from ...models.catalog import ModelEntry
from ...requests.json_text import read_object
from ...work.studio import Studio
from .. import client_jobs, kept_images
from ..answers import origin_of, studio_of
from ..request_error import RequestError
from . import answers as a1111_answers
from .controls import entry_of
from .fields import Fields
from .lists import UPSCALERS
from .routes import decoded, errors_as_a1111, state_of
from .state import Call

_NONE, _LANCZOS, _NEAREST = UPSCALERS
_SCALE = 2.0  # where the client says none, as in A1111
_MOST = 16  # images of a batch


@dataclass(frozen=True)
class Enlargement:
    """How pictures are made larger."""

    upscaler: str | ModelEntry  # one of UPSCALERS, or a network
    scale: float | None  # None where there is a target
    target: tuple[int, int] | None = None
    crop: bool = True

    def size(self, image: Image.Image) -> tuple[int, int]:
        """Returns (width, height) of an image made larger, before it is cropped."""
        if self.target is None:
            return int(image.width * (self.scale or 1)), int(image.height * (self.scale or 1))
        ratios = self.target[0] / image.width, self.target[1] / image.height
        scale = max(ratios) if self.crop else min(ratios)
        return max(int(image.width * scale), 1), max(int(image.height * scale), 1)

    def fitted(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Returns a picture at (width, height), cropped where the target has another shape."""
        nearest = self.upscaler == _NEAREST
        image = image.resize(size, Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS)
        return ImageOps.fit(image, self.target) if self.target is not None and self.crop else image


def enlargement(values: Mapping[str, Any], networks: list[ModelEntry], most: int) -> Enlargement:
    """Returns how a client wants pictures made larger. networks: the upscalers there are. most: pixels of a side."""
    fields = Fields(values)
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if fields.number(name):
            raise RequestError(f"{name}: there is no face restorer here; leave it 0", field=name)
    if fields.text("upscaler_2") not in ("", _NONE) and fields.number("extras_upscaler_2_visibility"):
        raise RequestError("upscaler_2: one upscaler makes a picture here; leave it out", field="upscaler_2")
    name = fields.text("upscaler_1") or _NONE
    upscaler: str | ModelEntry | None = name if name in UPSCALERS else entry_of(name, networks)
    if upscaler is None:
        names = [*UPSCALERS, *(network.name for network in networks)]
        raise RequestError(str(unknown("upscaler", name, names)), field="upscaler_1")
    if not fields.integer("resize_mode"):
        scale = fields.number("upscaling_resize")
        scale = _SCALE if scale is None else scale
        if not 1 <= scale <= 8:
            raise RequestError(f"upscaling_resize must be from 1 to 8, not {scale:g}", field="upscaling_resize")
        return Enlargement(upscaler, scale)
    width, height = (fields.integer(f"upscaling_resize_{side}") or 512 for side in "wh")
    if not (0 < width <= most and 0 < height <= most):
        message = f"upscaling_resize_w and upscaling_resize_h must be from 1 to {most}, not {width} and {height}"
        raise RequestError(message, field="upscaling_resize_w")
    return Enlargement(upscaler, None, (width, height), fields.truth("upscaling_crop", True))


@errors_as_a1111
async def single_image(request: Request) -> Response:
    """Makes one picture larger."""
    values = await read_object(request)
    (picture,) = await _enlarged(request, values, [(values.get("image"), "image")])
    return JSONResponse({"html_info": "", "image": picture})


@errors_as_a1111
async def batch_images(request: Request) -> Response:
    """Makes several pictures larger."""
    values = await read_object(request)
    entries = Fields(values).sequence("imageList")
    if not 1 <= len(entries) <= _MOST:
        raise RequestError(f"imageList must have 1 to {_MOST} images, not {len(entries)}", field="imageList")
    images = [(entry.get("data") if isinstance(entry, dict) else None, "imageList") for entry in entries]
    return JSONResponse({"html_info": "", "images": await _enlarged(request, values, images)})


async def _enlarged(request: Request, values: Mapping[str, Any], texts: list[tuple[Any, str]]) -> list[str]:
    """Returns pictures in base64, made larger."""
    studio = studio_of(request)
    networks = await asyncio.to_thread(studio.catalog.upscalers)
    how_large = enlargement(values, networks, studio.settings.limits.side)
    images = [await asyncio.to_thread(decoded, studio, text, field) for text, field in texts]
    sizes = [how_large.size(image) for image in images]
    if any(width * height > studio.settings.limits.enlarged_pixels for width, height in sizes):
        most = studio.settings.limits.enlarged_pixels
        raise RequestError(f"upscaling_resize: pictures have at most {most} pixels here; take less")
    if how_large.upscaler == _NONE:
        return [await asyncio.to_thread(_encoded, image) for image in images]
    if not isinstance(how_large.upscaler, str):
        images = await _by_network(request, studio, how_large.upscaler, images)
    fitted = [await asyncio.to_thread(how_large.fitted, *pair) for pair in zip(images, sizes, strict=True)]
    return [await asyncio.to_thread(_encoded, image) for image in fitted]


async def _by_network(
    request: Request, studio: Studio, network: ModelEntry, images: list[Image.Image]
) -> list[Image.Image]:
    """Returns images enlarged by an upscaler's network, in jobs of the queue."""
    origin, state = origin_of(request), state_of(request)
    larger = []
    for image in images:
        name = await asyncio.to_thread(kept_images.named, studio, image)
        settings = {"model": network.id, "init_image": name, "prompt": "", "seed": 0}
        jobs = await asyncio.to_thread(studio.submit, settings, origin, keep=False)
        with state.calling(Call(origin.client, "extras", jobs)):
            if not await client_jobs.all_ended(studio, request, jobs):
                raise RequestError("the client went away", status=499)
        with Image.open(io.BytesIO(client_jobs.picture_of(studio, jobs[0]))) as picture:
            larger.append(picture.convert("RGB"))
    return larger


def _encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return a1111_answers.base64_of(file.getvalue())


ROUTES: list[BaseRoute] = [
    Route("/sdapi/v1/extra-single-image", single_image, methods=["POST"]),
    Route("/sdapi/v1/extra-batch-images", batch_images, methods=["POST"]),
]
