"""Bodies are read no further than their limit, no longer than their deadline, and not too many at a time."""

import anyio
from starlette.types import Message, Receive

from .exchange import Exchange, Policy, Refusal
from .rules import too_large


class BodyRefused(Exception):
    """A body turned out to be too large or too slow while it was read."""

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.message)
        self.refusal = refusal


class Intake:
    """Counts the bytes of all bodies that are being received."""

    def __init__(self) -> None:
        self.total = 0


class Body:
    """Receives the body of one request, within the limits of its route and of the policy."""

    def __init__(self, exchange: Exchange, policy: Policy, receive: Receive, intake: Intake):
        self._limit, self._policy = exchange.body_kind.limit, policy
        self._receive, self._intake = receive, intake
        self._deadline: float | None = None  # by the clock of the event loop
        self._count = 0
        self._is_complete = not exchange.has_body

    async def receive(self) -> Message:
        """Returns the next message of ASGI; BodyRefused where the body breaks a limit."""
        if (
            self._is_complete
        ):  # without a timeout: `Request.is_disconnected` cancels at once, and must see what is there
            return await self._receive()
        now = anyio.current_time()
        if self._deadline is None:
            self._deadline = now + self._policy.body_seconds
        with anyio.move_on_after(min(self._policy.idle_seconds, self._deadline - now)) as scope:
            message = await self._receive()
        if scope.cancelled_caught:
            raise BodyRefused(Refusal(408, "the body came too slowly", {"connection": "close"}))
        self._count_bytes(message)
        return message

    def _count_bytes(self, message: Message) -> None:
        size = len(message.get("body", b""))
        self._count += size
        self._intake.total += size
        if self._count > self._limit:
            raise BodyRefused(too_large(self._limit))
        if self._intake.total > self._policy.bytes_in_flight:
            raise BodyRefused(Refusal(503, "too many large requests at a time; try again", {"retry-after": "2"}))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.release()
            self._is_complete = True

    def release(self) -> None:
        """Takes the bytes out of the count of those that are being received."""
        self._intake.total -= self._count
        self._count = 0
