"""The page: its files, by a table of their names. No path of a client is opened."""

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

FOLDER = Path(__file__).parent.parent / "page"
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
FILES = {path.name: path for path in FOLDER.iterdir() if path.suffix in _TYPES}


async def index(_request: Request) -> Response:
    """Answers with the page."""
    return _file("index.html")


async def page_file(request: Request) -> Response:
    """Answers with a file of the page."""
    return _file(request.path_params["file"])


async def icon(_request: Request) -> Response:
    """Answers with the page's icon, which some browsers look for under this name."""
    return _file("icon.svg")


def _file(name: str) -> Response:
    path = FILES.get(name)
    if path is None:
        raise HTTPException(404, "the page has no such file")
    return FileResponse(path, media_type=_TYPES[path.suffix])


ROUTES: list[BaseRoute] = [
    Route("/", index),
    Route("/page/{file}", page_file),
    Route("/favicon.ico", icon),
]
