"""Who waits for the end of a job: futures of event loops, ended from any thread."""

import asyncio


class Waiting:
    """Futures by the id of what they wait for; its owner locks."""

    def __init__(self) -> None:
        self._futures: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]] = {}

    def add(self, id: str) -> "asyncio.Future[None]":
        """Returns a future of the running event loop that ends with `release`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._futures.setdefault(id, []).append((loop, future))
        return future

    def release(self, id: str) -> None:
        """Ends the waiting for an id, from any thread."""
        for loop, future in self._futures.pop(id, ()):
            _release(loop, future)


def _release(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[None]") -> None:
    def settle() -> None:
        """Ends the waiting, unless whoever waited has given up."""
        if not future.done():
            future.set_result(None)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed, and nobody waits any more
        return
