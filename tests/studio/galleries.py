"""A Studio without its worker, and a client in the same process, for tests of routes that need no network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from starlette.applications import Starlette

from mlx_sd.studio.app import routes
from mlx_sd.studio.routes import own
from mlx_sd.studio.studio import Settings, Studio


@contextmanager
def studio(folder: Path) -> Iterator[Studio]:
    """Opens a Studio whose worker is never started."""
    opened = Studio(Settings(folder=folder))
    try:
        yield opened
    finally:
        opened.stop()


class Caller:
    """Sends requests to the routes without a server between: paths arrive exactly as they are given."""

    def __init__(self, studio: Studio):
        self._app = Starlette(routes=routes(), exception_handlers=own.HANDLERS)
        self._app.state.studio = studio

    async def __call__(self, method: str, path: str, **options: object) -> httpx.Response:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **options)
