"""Routes of the gallery and its trash. Names are looked up in a table; no text of a client becomes a path."""

import asyncio
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...core.errors import InputError
from ...differences import differences
from ...metadata import picture_file
from .. import gallery_details
from ..gallery import MOST
from ..picture_record import Record
from ..studio import Studio
from ..thumbnails import MEDIA_TYPE
from .answers import error, studio_of

_PAGE = 60  # pictures of an answer that asks for no number
_FOREVER, _ASK = "private, max-age=31536000, immutable", "private, no-cache"


async def listing(request: Request) -> Response:
    """Answers with pictures newest first, behind `after`, that match `search`."""
    gallery, query = studio_of(request).gallery, request.query_params
    limit = _number(query.get("limit"))
    return JSONResponse(await gallery.run(gallery.page, query.get("after"), limit, query.get("search", "")))


async def details(request: Request) -> Response:
    """Answers with all that is known of a picture: its request, A1111's text, its size and date."""
    studio, name = studio_of(request), request.path_params["name"]
    record = await _fresh(studio, name)
    if record is None:
        return _absent(name)
    return JSONResponse(await studio.gallery.run(gallery_details.of, studio, record))


async def compare(request: Request) -> Response:
    """Answers with the settings in which two pictures differ."""
    studio, requests = studio_of(request), []
    for side in ("a", "b"):
        name = request.query_params.get(side, "")
        record = await _fresh(studio, name)
        if record is None:
            return _absent(name)
        requests.append((await studio.gallery.run(gallery_details.of, studio, record))["request"] or {})
    pairs = differences(*requests)
    return JSONResponse({"differences": [{"setting": name, "a": a, "b": b} for name, a, b in pairs]})


async def picture(request: Request) -> Response:
    """Answers with the file of a picture, under the type of its suffix."""
    studio, name = studio_of(request), request.path_params["name"]
    record = await _record(studio, name)
    if record is None:
        return _absent(name)
    content = await _in_pool(studio, _content, studio.gallery.folder / record.name, record)
    if content is None:  # it has gone or changed: the table is put right
        record = await studio.gallery.run(studio.gallery.update, name)
        content = record and await _in_pool(studio, _content, studio.gallery.folder / record.name, record)
        if record is None or content is None:
            return _absent(name)
    media_type = f"image/{picture_file.format_of(Path(record.name)).lower()}"
    return _cached(request, record, content, media_type)


async def thumbnail(request: Request) -> Response:
    """Answers with a small copy of a picture; with a grey picture where it is damaged."""
    studio, name = studio_of(request), request.path_params["name"]
    return await _thumbnail(request, studio.gallery.folder, await _record(studio, name))


async def delete(request: Request) -> Response:
    """Moves a picture into the trash."""
    studio, name = studio_of(request), request.path_params["name"]
    if await _record(studio, name) is None:
        return _absent(name)
    try:
        moved = await studio.gallery.run(studio.trash.throw, name)
    except FileNotFoundError:
        return _absent(name)
    finally:
        await studio.gallery.run(studio.gallery.update, name)
    return JSONResponse({"name": moved})


async def trash(request: Request) -> Response:
    """Answers with the pictures of the trash."""
    studio = studio_of(request)
    return JSONResponse({"pictures": await studio.gallery.run(studio.trash.listing)})


async def restore(request: Request) -> Response:
    """Moves a picture of the trash back into the gallery."""
    studio, name = studio_of(request), request.path_params["name"]
    if await studio.gallery.run(studio.trash.find, name) is None:
        return _absent(name, "trash")
    try:
        restored = await studio.gallery.run(studio.trash.restore, name)
    except FileNotFoundError:
        return _absent(name, "trash")
    record = await studio.gallery.run(studio.gallery.update, restored)
    return JSONResponse({"picture": record.to_json() if record else None})


async def trash_thumbnail(request: Request) -> Response:
    """Answers with a small copy of a picture of the trash."""
    studio, name = studio_of(request), request.path_params["name"]
    return await _thumbnail(request, studio.trash.folder, await studio.gallery.run(studio.trash.find, name))


async def empty_trash(request: Request) -> Response:
    """Removes the pictures of the trash for good."""
    studio = studio_of(request)
    return JSONResponse({"removed": await studio.gallery.run(studio.trash.empty)})


async def _thumbnail(request: Request, folder: Path, record: Record | None) -> Response:
    studio = studio_of(request)
    if record is None:
        return _absent(request.path_params["name"])
    content, is_picture = await _in_pool(studio, studio.thumbnails.get, folder, record)
    if not is_picture:
        return Response(content, headers=_headers(MEDIA_TYPE, "no-store"))
    return _cached(request, record, content, MEDIA_TYPE)


async def _record(studio: Studio, name: str) -> Record | None:
    """Returns the record of a picture, also of one that the gallery is just taking in; None for other names."""
    record: Record | None = studio.gallery.find(name)
    if record is None:
        record = await studio.gallery.run(studio.gallery.find, name)
    return record


async def _fresh(studio: Studio, name: str) -> Record | None:
    """Returns the record of a picture as the file is now; names that are not in the table are not looked for."""
    if await _record(studio, name) is None:
        return None
    record: Record | None = await studio.gallery.run(studio.gallery.update, name)
    return record


async def _in_pool(studio: Studio, function: Any, *arguments: Any) -> Any:
    return await asyncio.wrap_future(studio.thumbnails.executor.submit(function, *arguments))


def _content(path: Path, record: Record) -> bytes | None:
    """Returns the bytes of a file; None where it is not the one of the record any more. Links are not followed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(handle, "rb") as file:  # noqa: PTH123 - of a handle
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or (status.st_mtime_ns, status.st_size) != record[1:3]:
            return None
        return file.read()


def _cached(request: Request, record: Record, content: bytes, media_type: str) -> Response:
    """Returns a file that a client may keep for ever under an address with its version, ?v=..., else must ask for."""
    tag = f'"{record.version}"'
    keeps = request.query_params.get("v") == record.version
    headers = {**_headers(media_type, _FOREVER if keeps else _ASK), "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


def _headers(media_type: str, cache: str) -> Mapping[str, str]:
    return {
        "Content-Type": media_type,
        "Cache-Control": cache,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }


def _absent(name: str, place: str = "gallery") -> Response:
    return error(f"there is no picture {name[:100]!r} in the {place}; it was renamed, moved or deleted", 404)


def _number(text: str | None) -> int:
    """Returns the number of pictures that a client asks for; InputError for what is none."""
    if text is None:
        return _PAGE
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise InputError(f'"limit" is a whole number from 1 to {MOST}, not {text[:20]!r}')
    return int(text)


ROUTES: list[BaseRoute] = [
    Route("/api/gallery", listing),
    Route("/api/gallery/compare", compare),
    Route("/api/gallery/{name}", details, methods=["GET"]),
    Route("/api/gallery/{name}", delete, methods=["DELETE"]),
    Route("/api/gallery/{name}/picture", picture),
    Route("/api/gallery/{name}/thumbnail", thumbnail),
    Route("/api/trash", trash, methods=["GET"]),
    Route("/api/trash", empty_trash, methods=["DELETE"]),
    Route("/api/trash/{name}", restore, methods=["POST"]),
    Route("/api/trash/{name}/thumbnail", trash_thumbnail),
]
