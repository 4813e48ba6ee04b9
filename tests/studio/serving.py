"""A Studio behind uvicorn in a thread of the test process, for real clients of its APIs."""

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from mlx_sd.studio.app import application
from mlx_sd.studio.studio import Settings, Studio
from mlx_sd.studio.uploads import Uploads

SECONDS = 120.0  # after which a server that does not start or end is an error


class _Server(uvicorn.Server):
    """Says when it has started."""

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        self.answers = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answers.set()


@contextmanager
def served(
    folder: Path, prepare: Callable[[Studio], None] = lambda studio: None, **settings: Any
) -> Iterator[tuple[Studio, str]]:
    """Yields a running Studio and its address, http://127.0.0.1:PORT. prepare: is called before it starts."""
    studio = Studio(Settings(folder, **settings))
    if studio.uploads is None:
        studio.uploads = Uploads(studio.hidden / "uploads")
    prepare(studio)
    listener = socket.create_server(("127.0.0.1", 0))
    options: dict[str, Any] = {"lifespan": "on", "log_level": "error", "access_log": False, "ws": "none"}
    server = _Server(uvicorn.Config(application(studio), timeout_graceful_shutdown=5, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert server.answers.wait(SECONDS)
        yield studio, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        listener.close()
    assert not thread.is_alive()


def pixels(png: bytes) -> np.ndarray:
    """Returns the pixels of a picture file."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def png_of(image: Image.Image) -> bytes:
    """Returns a picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
