"""Events for any number of listeners: published from any thread, received in event loops."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

Event = dict[str, Any]

_ROOM = 512  # events that may wait for one listener; one that is slower is cut off, and asks for the state again
_PREVIEW = "preview"  # the type of events of which only the newest counts


class Subscription(AsyncIterator[Event]):
    """The events for one listener, from its subscription on, in order; it ends when it is closed."""

    def __init__(self, events: "Events"):
        self._events, self._loop = events, asyncio.get_running_loop()
        self._waiting: deque[Event] = deque()
        self._news, self._closed = asyncio.Event(), False

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        """Ends the subscription: what waits is still received, and then it is over."""
        self._events.forget(self)
        self._call(self._end)

    def send(self, event: Event) -> None:
        """Hands over an event, from any thread."""
        self._call(self._add, event)

    def _call(self, function: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed, and with it the listener
            self._events.forget(self)

    def _end(self) -> None:
        self._closed = True
        self._news.set()

    def _add(self, event: Event) -> None:
        if self._closed:
            return
        if event.get("type") == _PREVIEW and self._waiting and self._waiting[-1].get("type") == _PREVIEW:
            self._waiting.pop()
        if len(self._waiting) >= _ROOM:
            self._waiting.clear()
            self._events.forget(self)
            self._closed = True
        else:
            self._waiting.append(event)
        self._news.set()


class Events:
    """Hands each event that is published to all who listen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    @property
    def listeners(self) -> int:
        """Returns how many listen at this moment."""
        return len(self._subscriptions)

    def publish(self, event: Event) -> None:
        """Sends an event to all who listen, from any thread; it does not wait for them."""
        with self._lock:
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription.send(event)

    def subscribe(self) -> Subscription:
        """Returns the events from now on, to be read in the running event loop and closed afterwards."""
        subscription = Subscription(self)
        with self._lock:
            closed = self._closed
            if not closed:
                self._subscriptions.add(subscription)
        if closed:
            subscription.close()
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Sends no more events to a subscription."""
        with self._lock:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """Ends all subscriptions, and those that are still to come."""
        with self._lock:
            self._closed = True
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription.close()
