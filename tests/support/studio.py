"""A Studio's server inside the tests' process, on a free port of the loopback interface, and processes of it."""

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvicorn

import mlx_sd
from mlx_sd.studio.guard.protocol import uvicorn_options
from mlx_sd.studio.jobs.job import Origin
from mlx_sd.studio.server.app import application
from mlx_sd.studio.work.studio import Settings, Studio

ROOT = Path(mlx_sd.__file__).parent.parent
PAGE, API = Origin("page", "a page"), Origin("api", "a program")
SMALL = {"prompt": "a red tent", "steps": 2, "width": 64, "height": 64, "seed": 1}  # a picture that takes little


class Running(NamedTuple):
    """A server that answers: where, and its Studio."""

    address: str
    studio: Studio


@contextlib.contextmanager
def studio(folder: Path, **settings: Any) -> Iterator[Studio]:
    """A Studio that works, without a server."""
    opened = Studio(Settings(folder, **settings))
    opened.start()
    try:
        yield opened
    finally:
        assert opened.stop(60)


@contextlib.contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Running]:
    """A server in a thread of this process."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    opened = Studio(Settings(folder, port=port, **settings))
    config = uvicorn.Config(application(opened), lifespan="on", log_level="error", **uvicorn_options(grace=2))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Running(f"http://127.0.0.1:{port}", opened)
    finally:
        opened.begin_stop()
        server.should_exit = True
        thread.join()
        assert opened.worker.join(60)


class Process(NamedTuple):
    """A server in a process of its own."""

    process: "subprocess.Popen[str]"
    address: str

    @property
    def client(self) -> httpx.Client:
        """Returns a client of it."""
        return httpx.Client(base_url=self.address, timeout=60)


def start(folder: Path, *arguments: str, seconds: float = 60) -> Process:
    """Starts python -m mlx_sd.studio on a free port, and waits until it says where it is."""
    command = [sys.executable, "-m", "mlx_sd.studio", "--port", "0", "--no-browser", "--folder", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else ""
    match = re.search(r"http://\S+:\d+", line)
    if match is None:
        process.kill()
        raise AssertionError((line, process.communicate()))
    return Process(process, match[0])


def end(server: Process, number: int, seconds: float = 15) -> tuple[int, str]:
    """Sends a signal and returns the exit code and what was written on the standard error."""
    server.process.send_signal(number)
    _, errors = server.process.communicate(timeout=seconds)
    return server.process.returncode, errors
