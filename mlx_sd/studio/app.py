"""The application: one table of routes, what stands before all of them, and its start and end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from .guard import Guard, Policy, problems
from .studio import Studio

# The modules of `routes` in the order in which their tables are looked through. They are named, and not imported here,
# because they build on this folder.
ROUTES = (
    "own",
    "images",
    "gallery",
    "models",
    # "openai", "a1111",  # (studio-api)
    "pages",
)


def routes() -> list[BaseRoute]:
    """Returns the table of all routes."""
    return [route for name in ROUTES for route in import_module(f".routes.{name}", __package__).ROUTES]


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
