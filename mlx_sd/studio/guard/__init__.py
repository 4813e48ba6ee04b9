"""The guard stands before the whole app: it refuses requests by rules, bounds bodies, and sets headers of answers."""

import asyncio
import logging
import traceback
from collections.abc import Sequence

import anyio
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import problems
from .bodies import Body, BodyRefused, Intake
from .exchange import Exchange, Policy, Refusal
from .headers import protect
from .rules import RULES, Rule

__all__ = ["RULES", "Guard", "Policy"]

_log = logging.getLogger("mlx_sd.studio")
_LINGER_SECONDS, _LINGER_BYTES = 2.0, 64 << 20  # for what a refused client is still sending


class Guard:
    """ASGI middleware that lets through what every rule allows.

    rules: fewer than all of them in tests alone, which show what each is good for.
    """

    def __init__(self, app: ASGIApp, policy: Policy, rules: Sequence[Rule] = RULES):
        self._app, self._policy, self._rules = app, policy, rules
        self._intake = Intake()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or hands it to the app."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":  # no route speaks it
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope)
        answer = _Answer(exchange, send)
        for rule in self._rules:
            if refusal := rule(exchange, self._policy):
                await _refuse(exchange, refusal, receive, answer)
                return
        body = Body(exchange, self._policy, receive, self._intake)
        try:
            await self._app(scope, body.receive, answer.send)
        except BodyRefused as refused:
            await _refuse(exchange, refused.refusal, receive, answer)
        except ClientDisconnect:  # nobody is left to answer
            pass
        except asyncio.CancelledError:  # the server stops: uvicorn would log where, in many lines
            _log.info("%s %s was cut off", exchange.method, ascii(exchange.path))
        except Exception as error:  # the last place before uvicorn, which would log a traceback
            _log.error("%s %s failed: %s", exchange.method, ascii(exchange.path), _line(error))
            name = type(error).__name__
            await _refuse(
                exchange, Refusal(500, f"the request failed here ({name}); the log says more"), receive, answer
            )
        finally:
            body.release()


class _Answer:
    """Sends the messages of an answer, with the headers of all answers."""

    def __init__(self, exchange: Exchange, send: Send):
        self._is_page, self._send = exchange.is_page, send
        self.started = False

    async def send(self, message: Message) -> None:
        """Sends one message of ASGI."""
        if message["type"] == "http.response.start":
            self.started = True
            protect(MutableHeaders(scope=message), self._is_page)
        await self._send(message)


async def _refuse(exchange: Exchange, refusal: Refusal, receive: Receive, answer: _Answer) -> None:
    """Answers with a refusal, and closes the connection where the request has a body that nobody reads.

    What still comes of the body is thrown away for a while: to a connection that is closed before, many clients lose
    the answer. Nothing is sent where an answer has begun: the server then closes the connection.
    """
    if answer.started:
        return
    headers = dict(refusal.headers)
    if exchange.has_body:
        headers["connection"] = "close"
    response = problems.response(exchange.path, refusal.status, refusal.message, headers=headers)
    content = b"" if exchange.method == "HEAD" else bytes(response.body)
    await answer.send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await answer.send({"type": "http.response.body", "body": content, "more_body": True})
    if exchange.has_body:
        await _throw_away(receive)
    await answer.send({"type": "http.response.body", "body": b"", "more_body": False})


async def _throw_away(receive: Receive) -> None:
    """Receives what is left of a body, within limits."""
    count = 0
    with anyio.move_on_after(_LINGER_SECONDS):
        while count < _LINGER_BYTES:
            message = await receive()
            count += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return


def _line(error: BaseException) -> str:
    """Returns one line about an error that nobody named: its type, its message, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    message = " ".join(ascii(str(error))[1:-1].split())[:300]
    return f"{type(error).__name__}: {message}{place}"
