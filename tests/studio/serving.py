"""A Studio behind uvicorn in a thread of the test process, for real clients of its APIs."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from mlx_sd.studio.app import application
from mlx_sd.studio.studio import Settings, Studio

SECONDS = 60.0  # after which a server that does not start or end is an error


@contextmanager
def served(folder: Path, prepare: Callable[[Studio], None] = lambda studio: None, **settings: Any) -> Iterator[tuple[Studio, str]]:
    """Yields a running Studio and its address, http://127.0.0.1:PORT. prepare: is called before it starts."""
    studio = Studio(Settings(folder, **settings))
    prepare(studio)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application(studio), lifespan="on", log_level="error", access_log=False, timeout_graceful_shutdown=5, ws="none"
    )
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def announce(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = announce  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert started.wait(SECONDS)
        yield studio, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        listener.close()
    assert not thread.is_alive()
