"""The application: one table of routes, what stands before all of them, and its start and end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from .routes import own
from .studio import Studio


def routes() -> list[BaseRoute]:
    """Returns the table of all routes."""
    return [
        *own.ROUTES,
        # *uploads.ROUTES,  # pictures that clients send (studio-guard)
        # *gallery.ROUTES, *models.ROUTES,  # (studio-gallery)
        # *openai.ROUTES, *a1111.ROUTES,  # (studio-api)
        # *pages.ROUTES,  # the page; last
    ]


def middleware(studio: Studio) -> list[Middleware]:
    """Returns what every request passes first, in this order."""
    return [
        # Middleware(Guard, studio=studio),  # (studio-guard)
    ]


def application(studio: Studio) -> Starlette:
    """Returns the application of a Studio, which starts it and stops it with itself."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        studio.start()
        yield
        studio.stop()

    app = Starlette(
        routes=routes(),
        middleware=middleware(studio),
        exception_handlers=own.HANDLERS,
        lifespan=lifespan,
    )
    app.state.studio = studio
    return app
