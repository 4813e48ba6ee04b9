"""The application: one table of routes, what stands before all of them, and its start and end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from ..guard import Guard, Policy, problems
from ..routes import gallery, images, models, own, pages
from ..routes.a1111 import extras, lists
from ..routes.a1111 import routes as a1111
from ..routes.openai import routes as openai
from ..work.studio import Studio

# In the order in which they are looked through.
_TABLES = (own, images, gallery, models, openai, a1111, lists, extras, pages)


def routes() -> list[BaseRoute]:
    """Returns the table of all routes."""
    return [route for module in _TABLES for route in module.ROUTES]


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
