"""The one thread that owns MLX: it makes the jobs of the queue, one after the other, and what else needs networks.

MLX's streams and its generator of random numbers belong to threads, and an array that is not computed yet cannot be
computed in another one. Therefore everything that loads, generates, decodes or previews runs here; other threads send
requests and get bytes.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from .calls import Calls
from .model_state import ModelState
from .parts import Parts

if TYPE_CHECKING:
    from .making import Maker

T = TypeVar("T")
_PAUSE = 2.0  # seconds without a job after which the worker prepares what later jobs need


class Worker:
    """Makes jobs in a thread of its own, from `start` to `stop`."""

    def __init__(self, studio: Parts):
        self._studio = studio
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)
        self._calls = Calls()
        self._stopping = threading.Event()
        self._model = ModelState()
        self.ended = threading.Event()  # whether the thread is over, as intended or not
        self.failed = False  # whether it ended by a mistake of its own

    @property
    def model(self) -> str | None:
        """Returns the id of the model that is in memory."""
        return self._model.loaded

    @property
    def loading(self) -> str | None:
        """Returns the id of the model that is being loaded."""
        return self._model.loading

    def start(self) -> None:
        """Starts the thread, which loads the default model first."""
        self._thread.start()

    def stop(self) -> None:
        """Makes the thread end at its next evaluation; returns at once."""
        self._stopping.set()
        self._studio.queue.wake()

    def join(self, seconds: float) -> bool:
        """Waits for the thread's end; False where it takes more than so many seconds."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def call(self, function: "Callable[[Maker], T]") -> "Future[T]":
        """Runs a short function in the thread, between two evaluations at the latest; returns its future result."""
        future = self._calls.add(function)
        if self._stopping.is_set():
            self._calls.refuse()
        self._studio.queue.wake()
        return future

    def _run(self) -> None:
        from .making import Maker  # here because it imports the networks, which takes a while

        maker = Maker(self._studio, self._calls, self._stopping, self._model)
        try:
            if not self._studio.queue.order:
                maker.prepare()
            busy: float | None = None  # when the last job ended
            while not self._stopping.is_set():
                self._calls.answer(maker)
                job = self._studio.queue.next(_PAUSE)
                if job is not None:
                    maker.make(job)
                    busy = time.monotonic()
                elif busy is not None and time.monotonic() - busy >= _PAUSE:
                    maker.prepare_previews()
        finally:
            self.failed = not self._stopping.is_set()
            self._stopping.set()
            self._studio.queue.close()
            self._calls.refuse()
            maker.close()
            self.ended.set()
