"""Short functions that other threads want run in the worker's thread, and their results."""

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Calls:
    """Functions that wait for the worker, which runs them between two evaluations."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[Any], Any]]] = queue.SimpleQueue()

    def __len__(self) -> int:
        return self._waiting.qsize()

    def add(self, function: Callable[[Any], T]) -> "Future[T]":
        """Adds a function and returns its future result."""
        future: Future[T] = Future()
        self._waiting.put((future, function))
        return future

    def answer(self, argument: Any) -> None:
        """Runs the functions that wait with an argument; their errors are those of whoever waits."""
        for future, function in self._taken():
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(argument))
            except (ValueError, RuntimeError, OSError, MemoryError) as error:
                future.set_exception(error)

    def refuse(self) -> None:
        """Cancels the functions that wait: nobody runs them any more."""
        for future, _ in self._taken():
            future.cancel()

    def _taken(self) -> list[tuple["Future[Any]", Callable[[Any], Any]]]:
        taken = []
        while True:
            try:
                taken.append(self._waiting.get_nowait())
            except queue.Empty:
                return taken
