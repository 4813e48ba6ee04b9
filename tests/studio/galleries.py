"""A Studio without its worker, and requests to its app in the same process, for tests that need no network."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mlx_sd.studio.server.app import application
from mlx_sd.studio.work.studio import Settings, Studio
from tests.studio.asgi import HOST, ask


@contextmanager
def studio(folder: Path) -> Iterator[Studio]:
    """Opens a Studio whose worker is never started."""
    opened = Studio(Settings(folder=folder, port=int(HOST.partition(":")[2])))
    try:
        yield opened
    finally:
        opened.stop()


class Answer(NamedTuple):
    """What the app answered."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.content)


class Caller:
    """Sends requests to the app of a Studio: paths arrive exactly as they are given.

    guarded: with the guard before the routes; without it they must be safe by themselves.
    """

    def __init__(self, studio: Studio, guarded: bool = True):
        self._app: Any = application(studio)
        if not guarded:
            self._app.user_middleware.clear()

    def __call__(self, method: str, path: str, headers: Any = (), body: bytes = b"", **content: Any) -> Answer:
        """content: json, a value that is sent in the place of `body`."""
        pairs = [*dict(headers).items()]
        if content:
            body = json.dumps(content["json"]).encode()
            pairs.append(("Content-Type", "application/json"))
        answer = ask(self._app, method, path, pairs, body)
        return Answer(answer.status, answer.headers, answer.body)


class Heard:
    """Takes the place of `Events`, and remembers what is published."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def publish(self, event: Any) -> None:
        self.events.append(event)
