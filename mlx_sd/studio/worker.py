"""The one thread that owns MLX: it makes the jobs of the queue, one after the other, and what else needs networks.

MLX's streams and its generator of random numbers belong to threads, and an array that is not computed yet cannot be
computed in another one. Therefore everything that loads, generates, decodes or previews runs here; other threads send
requests and get bytes.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .making import Maker
    from .studio import Studio

T = TypeVar("T")
_REST = 2.0  # seconds without a job after which the worker prepares what later jobs need


class Worker:
    """Makes jobs in a thread of its own, from `start` to `stop`."""

    def __init__(self, studio: "Studio"):
        self._studio = studio
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[Maker], Any]]] = queue.SimpleQueue()
        self.stopping = threading.Event()
        self.ended = threading.Event()  # whether the thread is over, as intended or not
        self.failed = False  # whether it ended by a mistake of its own
        self.model: str | None = None  # id of the model that is loaded
        self.loading: str | None = None  # id of the model that is being loaded

    def start(self) -> None:
        """Starts the thread, which loads the default model first."""
        self._thread.start()

    def stop(self) -> None:
        """Makes the thread end at its next evaluation; returns at once."""
        self.stopping.set()
        self._studio.queue.wake()

    def join(self, seconds: float) -> bool:
        """Waits for the thread's end; False where it takes more than so many seconds."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def call(self, function: "Callable[[Maker], T]") -> "Future[T]":
        """Runs a short function in the thread, between two evaluations at the latest; returns its future result."""
        future: Future[T] = Future()
        self._calls.put((future, function))
        if self.stopping.is_set() or self.ended.is_set():
            self._refuse_calls()
        self._studio.queue.wake()
        return future

    def _run(self) -> None:
        from .making import Maker  # here because it imports the networks, which takes a while

        maker = Maker(self._studio, self)
        try:
            if not self._studio.queue.order:
                maker.prepare()
            rested = time.monotonic()
            while not self.stopping.is_set():
                self.answer_calls(maker)
                job = self._studio.queue.next(_REST)
                if job is not None:
                    maker.make(job)
                    rested = time.monotonic()
                elif time.monotonic() - rested >= _REST and not self.stopping.is_set() and self._calls.empty():
                    maker.rest()
        finally:
            self.failed = not self.stopping.is_set()
            self.ended.set()
            self.stopping.set()
            self._studio.queue.close()
            self._refuse_calls()
            maker.close()

    @property
    def is_wanted(self) -> bool:
        """Whether something waits for the thread, so that it should not do what can be done later."""
        return self.stopping.is_set() or not self._calls.empty() or bool(self._studio.queue.order)

    def answer_calls(self, maker: "Maker") -> None:
        """Runs the functions that wait; in the thread alone."""
        while True:
            try:
                future, function = self._calls.get_nowait()
            except queue.Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(maker))
            except (ValueError, RuntimeError, OSError, MemoryError) as error:
                future.set_exception(error)

    def _refuse_calls(self) -> None:
        while True:
            try:
                future, _ = self._calls.get_nowait()
            except queue.Empty:
                return
            future.cancel()
