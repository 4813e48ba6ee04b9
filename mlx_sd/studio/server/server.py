"""uvicorn, run so that signals end it in order: what clients wait for first, then the worker, with exit code 0."""

import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from ..guard.protocol import uvicorn_options
from ..work.studio import Studio
from .app import application


class _Server(uvicorn.Server):
    """Ends the Studio's streams before it waits for them, and says when it has started."""

    def __init__(self, config: uvicorn.Config, studio: Studio, started: Callable[[], None]):
        super().__init__(config)
        self._studio, self._announce = studio, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to answer, and announces it."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def on_tick(self, counter: int) -> bool:
        """Returns whether the server ends: also where the worker has ended by itself."""
        return await super().on_tick(counter) or self._studio.worker.ended.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends what clients wait for, then the connections, then the worker."""
        self._studio.begin_stop()
        await super().shutdown(sockets)


def run(studio: Studio, listener: socket.socket, started: Callable[[], None], grace: int) -> bool:
    """Answers requests until SIGTERM or Ctrl-C; returns whether the worker has ended in time.

    grace: seconds that answers in progress have at the end.
    """
    config = uvicorn.Config(
        application(studio),
        lifespan="on",
        log_level="error",
        **uvicorn_options(grace),
    )
    server = _Server(config, studio, started)

    def end(_number: int, _frame: FrameType | None) -> None:
        """Does nothing more: the server has ended, and uvicorn repeats the signal that ended it."""

    before: dict[int, Any] = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return studio.worker.join(0)
