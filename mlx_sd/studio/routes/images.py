"""Pictures that the page sends: kept by id, given back as PNG, and read for the settings that they hold."""

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...core.errors import InputError
from .. import stored_settings
from ..guard import problems
from ..picture_parts import kind_of

_TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WebP", "image/gif": "GIF"}


async def add_image(request: Request) -> Response:
    """Keeps the picture in the body; answers with its id, its size, and whether it is transparent."""
    data = await _picture(request)
    upload = await anyio.to_thread.run_sync(request.app.state.studio.uploads.from_bytes, data)
    return JSONResponse(upload._asdict(), 201)


async def image(request: Request) -> Response:
    """Answers with a picture that was kept, as PNG: written here, never the bytes that came."""
    try:
        content = await anyio.to_thread.run_sync(request.app.state.studio.uploads.content, request.path_params["id"])
    except InputError as error:
        return problems.response(request.scope["path"], 404, str(error))
    headers = {"content-disposition": "inline", "cache-control": "private, max-age=31536000, immutable"}
    return Response(content, headers=headers, media_type="image/png")


async def read_image(request: Request) -> Response:
    """Answers with the settings that the picture in the body holds, and remarks; nothing of it is kept."""
    data = await _picture(request)
    stored = await anyio.to_thread.run_sync(stored_settings.read, request.app.state.studio, data)
    return JSONResponse({"request": stored.settings, "remarks": stored.remarks})


async def _picture(request: Request) -> bytes:
    """Returns the body; InputError where it is another kind of file than its type says."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
    data = bytes(content)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    actual = kind_of(data)
    if _TYPES.get(kind) != actual:
        raise InputError(
            f"the file is {'a ' + actual if actual else 'no picture'}, but was sent as {kind[:40] or 'nothing'}"
        )
    return data


ROUTES: list[BaseRoute] = [
    Route("/api/images", add_image, methods=["POST"]),
    Route("/api/images/{id}", image, methods=["GET"]),
    Route("/api/read", read_image, methods=["POST"]),
]
