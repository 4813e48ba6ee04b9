"""The application: one table of routes, what stands before all of them, and its start and end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from . import problems
from .guard import Guard, Policy
from .routes import gallery, images, models, own
from .studio import Studio


def routes() -> list[BaseRoute]:
    """Returns the table of all routes."""
    return [
        *own.ROUTES,
        *images.ROUTES,
        *gallery.ROUTES,
        *models.ROUTES,
        # *openai.ROUTES, *a1111.ROUTES,  # (studio-api)
        # *pages.ROUTES,  # the page; last
    ]


def middleware(studio: Studio) -> list[Middleware]:
    """Returns what every request passes first, in this order."""
    return [
        Middleware(Guard, policy=Policy.of(studio.settings.host, studio.settings.token)),
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
        exception_handlers=problems.handlers(),
        lifespan=lifespan,
    )
    app.state.studio = studio
    app.router.redirect_slashes = False  # a path is an address or it is not
    return app
