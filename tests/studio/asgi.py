"""Requests to an ASGI app in this process, byte for byte as a test writes them: clients would tidy them up."""

import asyncio
import contextlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

HOST = "127.0.0.1:7860"


class Answer(NamedTuple):
    """What an app answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """The one line of an error."""
        return json.loads(self.body)["error"]["message"]


def scope_of(method: str, target: str, headers: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Returns the scope of a request, as uvicorn makes it."""
    raw_path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 7860),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": method,
        "root_path": "",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "state": {},
    }


async def ask_async(
    app: Any,
    method: str = "GET",
    target: str = "/api/state",
    headers: Iterable[tuple[str, str]] | dict[str, str] = (),
    body: bytes | Sequence[bytes] = b"",
    host: str | None = HOST,
    patience: float | None = None,
) -> Answer:
    """Sends one request; headers: Host comes before them, and Content-Length after them where there is a body.

    patience: seconds after which the client leaves, if the answer has not ended; None waits.
    """
    pairs = list(headers.items() if isinstance(headers, dict) else headers)
    pieces = [body] if isinstance(body, bytes) else list(body)
    names = {name.lower() for name, _ in pairs}
    if host is not None:
        pairs.insert(0, ("host", host))
    if any(pieces) and not names & {"content-length", "transfer-encoding"}:
        pairs.append(("content-length", str(sum(map(len, pieces)))))
    scope = scope_of(method, target, pairs)
    messages = [
        {"type": "http.request", "body": piece, "more_body": i + 1 < len(pieces)} for i, piece in enumerate(pieces)
    ]
    answer: dict[str, Any] = {"status": 0, "headers": {}, "body": bytearray()}
    ended = asyncio.Event()

    async def receive() -> dict[str, Any]:
        """Gives the body piece by piece, and then waits for the answer's end."""
        if messages:
            return messages.pop(0)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), patience)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        """Takes the answer."""
        if message["type"] == "http.response.start":
            assert answer["status"] == 0, "an answer begins once"
            answer["status"] = message["status"]
            answer["headers"] = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in message["headers"]}
        elif message["type"] == "http.response.body":
            answer["body"] += message.get("body", b"")
            if not message.get("more_body", False):
                ended.set()

    await app(scope, receive, send)
    return Answer(answer["status"], answer["headers"], bytes(answer["body"]))


def ask(app: Any, *arguments: Any, **options: Any) -> Answer:
    """Sends one request as `ask_async`, in an event loop of its own."""
    return asyncio.run(ask_async(app, *arguments, **options))
