"""How uvicorn serves the studio: bounded heads of requests, connections and waiting times, which it does not have."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import problems
from .headers import FIXED

HEAD_SECONDS = 15.0  # for the request line and the headers, from the first connection or the last answer's first byte
STALL_SECONDS = 60.0  # for a client to read something of an answer
CONNECTIONS = 256  # at a time: a browser has 6, and a page of events keeps one
_HEAD_BYTES = 16 << 10
KEEP_ALIVE_SECONDS = 30
_LINGER_SECONDS = 2.0


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 for clients that may be slow on purpose; what uvicorn itself refuses is JSON too."""

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _is_mute = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request; closes the connection at once where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self._close()
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Reads what a client sends, and begins to wait where that is half the head of a request."""
        if self._is_mute:
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head_timer is None and not self.transport.is_closing():
            self._wait_for_head()

    def on_response_complete(self) -> None:
        """Ends an answer; a next request that has begun to come must come to its end."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] and self._head_timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waiting with the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begins to wait for a client that reads its answer slowly."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Ends the waiting: the client has read something."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP with one line of JSON, and closes the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer has begun
            self._close()
            return
        content = bytes(problems.response("/", 400, "this is no HTTP/1.1 request, or its head is too long").body)
        headers = {**FIXED, "content-type": "application/json", "cache-control": "no-store", "connection": "close"}
        headers["content-length"] = str(len(content))
        events = h11.Response(status_code=400, headers=list(headers.items())), h11.Data(content), h11.EndOfMessage()
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self._close_gently()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_gently(self) -> None:
        """Ends what is sent, and throws away what still comes: closed before, many clients would lose the answer."""
        self._stop_waiting()
        self._is_mute = True
        self.transport.write_eof()
        self._head_timer = self.loop.call_later(_LINGER_SECONDS, self._close)

    def _close(self) -> None:
        """Closes the connection when what is to be sent is sent; nothing more is read."""
        self._stop_waiting()
        self._is_mute = True
        self.transport.close()


def uvicorn_options(grace: int) -> dict[str, Any]:
    """Returns the options of `uvicorn.Config` that belong to the guard.

    grace: seconds that answers in progress have at the end.

    Headers of proxies are not believed: any program of this machine can send them.
    """
    return {
        "http": BoundedProtocol,
        "ws": "none",
        "h11_max_incomplete_event_size": _HEAD_BYTES,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": grace,
        "backlog": 256,
        "server_header": False,
        "proxy_headers": False,
        "access_log": False,
    }
