"""What A1111's API remembers between calls: options, the calls that wait for pictures, and who was interrupted."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...jobs.job import StudioJob
from .options import Options

if TYPE_CHECKING:
    from ...work.studio import Studio

_BUSY = 0.01  # of the progress at the start, as in A1111: 0 is idle
_WATCHED = 10.0  # seconds that a client who asks for the progress is taken to want previews
_CLIENTS = 256  # that are remembered


@dataclass
class Client:
    """What one client's last call has come to."""

    skipped: bool = False
    interrupted: bool = False
    timestamp: str = "0"


@dataclass(eq=False)
class Call:
    """A call that waits for pictures."""

    client: str
    task: str  # "txt2img", "img2img" or "extras"
    jobs: Sequence[StudioJob]
    begun: float = field(default_factory=time.time)

    @property
    def current(self) -> StudioJob:
        """Returns the job that is being made or is the next to be; the last where all have ended."""
        return next((job for job in self.jobs if not job.state.is_end), self.jobs[-1])

    @property
    def is_running(self) -> bool:
        """Whether one of its pictures is being made."""
        return any(job.started is not None and not job.state.is_end for job in self.jobs)


class State:
    """The state of the API of one server; used in the event loop alone."""

    def __init__(self, options: Options):
        self.options = options
        self._calls: list[Call] = []
        self._clients: dict[str, Client] = {}

    @contextmanager
    def calling(self, call: Call) -> Iterator[None]:
        """Lists a call while it waits for its pictures."""
        self._clients.pop(call.client, None)  # the newest stand last
        self._clients[call.client] = Client(timestamp=time.strftime("%Y%m%d%H%M%S"))
        while len(self._clients) > _CLIENTS:
            del self._clients[next(iter(self._clients))]
        self._calls.append(call)
        try:
            yield
        finally:
            self._calls.remove(call)

    def timestamp(self, client: str) -> str:
        """Returns when a client's last call began, as A1111 writes it."""
        return self._clients.get(client, Client()).timestamp

    def call_of(self, client: str) -> Call | None:
        """Returns the call that a client means without naming it: its own, or the running one where it made none.

        A client that has made calls never means those of others.
        """
        calls = [call for call in self._calls if call.client == client]
        if client not in self._clients:
            calls = [call for call in self._calls if call.is_running]
        return next((call for call in calls if call.is_running), next(iter(calls), None))

    def interrupt(self, studio: Studio, client: str) -> None:
        """Ends the call of a client: what is done of it is its answer."""
        if (call := self.call_of(client)) is not None:
            self._clients[call.client].interrupted = True
            studio.queue.cancel_group(call.jobs[0].group)

    def skip(self, studio: Studio, client: str) -> None:
        """Ends the picture that is being made for a client; the others of its call go on."""
        if (call := self.call_of(client)) is not None:
            self._clients[call.client].skipped = True
            studio.queue.cancel(call.current.id)

    def progress(self, client: str, with_image: bool) -> dict[str, Any]:
        """Returns how far the call of a client is; exactly 0 of 0 jobs where there is none."""
        call = self.call_of(client)
        about = self._clients.get(client if call is None else call.client, Client())
        state: dict[str, Any] = {"skipped": about.skipped, "interrupted": about.interrupted}
        state |= {"stopping_generation": False, "job": "", "job_count": 0, "job_no": 0}
        state |= {"job_timestamp": about.timestamp, "sampling_step": 0, "sampling_steps": 0}
        answer: dict[str, Any] = {"progress": 0, "eta_relative": 0, "state": state}
        answer |= {"current_image": None, "textinfo": None}
        if call is None:
            return answer
        job, count = call.current, len(call.jobs)
        number = sum(job.state.is_end for job in call.jobs)
        steps = job.evaluations or job.request.steps or 0
        share = job.evaluation / steps / count if steps and not job.state.is_end else 0
        progress = min(_BUSY + number / count + share, 1)
        elapsed = time.time() - call.begun
        answer |= {"progress": progress, "eta_relative": elapsed / progress - elapsed}
        state |= {"job": f"scripts_{call.task}", "job_count": count, "job_no": number}
        state |= {"sampling_step": job.evaluation, "sampling_steps": steps}
        if with_image:
            job.watched = time.time() + _WATCHED
            if job.preview is not None:
                answer["current_image"] = base64.b64encode(job.preview).decode("ascii")
        return answer
