"""The queue of jobs: accepted and journalled, in fair order, bounded; the worker takes from it, clients wait on it."""

import math
import secrets
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ...core.errors import Failure, InputError
from ...request import Request
from .events import Events
from .job import API, Origin, State, StudioJob
from .journal import Journal
from .records import entry_of, job_of
from .turns import Turns
from .waiting import Waiting

BOUND = 32  # jobs that may wait
_HISTORY = 200  # jobs that have ended and are still listed
_RESULT_BYTES = 256_000_000  # of pictures that nobody has taken yet
_TRIM = 100  # jobs after which the journal is trimmed again
_FIRST_GUESS = 10.0  # seconds of a job, where none was measured
_STOPPED = "the server was stopped before this picture was made"
_DIED = "the server was started again, and the program that asked for this picture was gone"

Named = Callable[[Request, str], str]  # request and id -> the name of the file in the data folder
Ended = Callable[[StudioJob], None]  # is called when a job has ended, and must return at once
Shown = Callable[[Request], dict[str, Any]]  # request -> its settings as clients see them


class QueueFull(Failure):
    """More jobs would wait than the queue takes; retry_after: seconds until there is room, as measured."""

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


class JobQueue:
    """Jobs of all clients, from acceptance to their end; its methods may be called from any thread."""

    def __init__(
        self,
        journal: Journal,
        events: Events,
        bound: int = BOUND,
        *,
        name: Named = lambda request, id: f"{id}.png",
        show: Shown = lambda request: request.to_json(),
        ended: Ended = lambda job: None,
    ):
        self.bound = bound
        self._journal, self._events, self._name, self._show = journal, events, name, show
        self._ended = ended
        self._lock = threading.Condition()
        self._turns = Turns()
        self._jobs: dict[str, StudioJob] = {}  # in the order of their acceptance
        self._running: StudioJob | None = None
        self._waiting = Waiting()
        self._seconds: deque[float] = deque(maxlen=8)  # of the last jobs
        self._closed = False
        self._ends = 0  # of jobs, since the journal was trimmed

    # ------------------------------------------------------------------------------------------------ for clients

    def submit(
        self, requests: Sequence[Request], origin: Origin, *, keep: bool, group: str | None = None
    ) -> list[StudioJob]:
        """Accepts jobs, all or none; they are in the journal, on disk, when this returns.

        requests: with seeds. Raises QueueFull where more than `bound` jobs would wait, InputError for more jobs than
        that at once, and Failure where the journal cannot be written or the server ends.
        """
        if not requests:
            raise InputError("there is nothing to make")
        if len(requests) > self.bound:
            raise InputError(
                f"{len(requests)} pictures are more than the queue takes at once, which is {self.bound}; ask for fewer "
                "at a time, or start the server with a larger --queue"
            )
        group = group or secrets.token_hex(8)
        with self._lock:
            if self._closed:
                raise Failure("the server is being stopped; start it again")
            surplus = len(self._turns) + len(requests) - self.bound
            if surplus > 0:
                waiting = len(self._turns)
                raise QueueFull(
                    f"the queue is full: {waiting} of {self.bound} jobs wait; try again later",
                    self._seconds_until(surplus),
                )
            jobs = [self._accepted(request, origin, keep, group) for request in requests]
            for job in jobs:
                self._turns.add(job)
            try:
                self._journal.add([entry_of(job) for job in jobs])
            except Failure:
                for job in jobs:
                    self._turns.remove(job)
                raise
            self._jobs |= {job.id: job for job in jobs}
            shown, order = [job.to_json() for job in jobs], self._turns.ids
            self._lock.notify_all()
        for values in shown:
            self._events.publish({"type": "job", "job": values})
        self._events.publish({"type": "queue", "order": order})
        return jobs

    def cancel(self, id: str) -> bool:
        """Cancels a job: one that waits at once, one that runs at its next evaluation; False where it has ended."""
        with self._lock:
            job = self._jobs.get(id)
            if job is None or job.state.is_end:
                return False
            if self._turns.remove(job):
                self._end(job, State.CANCELLED)
                self._publish_order()
            else:
                job.stop.set()
            return True

    def cancel_group(self, group: str) -> int:
        """Cancels the jobs of one submission that have not ended, and returns their number."""
        with self._lock:
            ids = [job.id for job in self._jobs.values() if job.group == group and not job.state.is_end]
        return sum(self.cancel(id) for id in reversed(ids))  # the running one last: no other begins in between

    def remove(self, id: str) -> bool:
        """Cancels a job that has not ended, and forgets one that has; False for an unknown id."""
        with self._lock:
            job = self._jobs.get(id)
            if job is None:
                return False
            if not job.state.is_end:
                return self.cancel(id)
            del self._jobs[id]
            self._journal.remove([id])
        self._events.publish({"type": "job", "job": {**job.to_json(), "state": "removed"}})
        return True

    def reorder(self, ids: Sequence[str]) -> list[str]:
        """Puts waiting jobs into the order of their ids, those that are not named behind; returns the new order."""
        with self._lock:
            jobs = self._turns.reorder(ids)
            self._journal.order((job.id, job.turn) for job in jobs)
            self._publish_order()
            return self._turns.ids

    def get(self, id: str) -> StudioJob | None:
        """Returns the job with an id, or None."""
        return self._jobs.get(id)

    def listing(self) -> list[StudioJob]:
        """Returns the running job, those that wait, in their order, and then those that ended, the newest first."""
        with self._lock:
            ended = [job for job in reversed(self._jobs.values()) if job.state.is_end]
            running = [self._running] if self._running else []
            return [*running, *(self._jobs[id] for id in self._turns.ids), *ended]

    @property
    def order(self) -> list[str]:
        """Returns the ids of the waiting jobs in their order."""
        with self._lock:
            return self._turns.ids

    @property
    def running(self) -> StudioJob | None:
        """Returns the job that is being made, or None."""
        return self._running

    async def finished(self, id: str) -> StudioJob:
        """Waits in the running event loop until a job has ended; InputError for an unknown id."""
        with self._lock:
            job = self._jobs.get(id)
            if job is None:
                raise InputError(f"there is no job {id!r}")
            if job.state.is_end:
                return job
            future = self._waiting.add(id)
        await future
        return job

    def take_result(self, job: StudioJob) -> bytes | None:
        """Returns the picture of a job that is not kept, once; None where it has none, or where it was taken."""
        with self._lock:
            result, job.result = job.result, None
            return result

    # ------------------------------------------------------------------------------------------------ for the worker

    def next(self, timeout: float | None = None) -> StudioJob | None:
        """Takes the next job, which runs now; waits for one, and returns None after `timeout` seconds or a `wake`."""
        with self._lock:
            if not len(self._turns) and not self._closed:
                self._lock.wait(timeout)
            job = None if self._closed else self._turns.take()
            if job is None:
                return None
            self._running = job
            job.state, job.started = State.RUNNING, time.time()
            self._note(job)
            self._publish(job)
            self._publish_order()
            return job

    def wake(self) -> None:
        """Makes a waiting `next` return."""
        with self._lock:
            self._lock.notify_all()

    def progress(self, job: StudioJob, evaluation: int, evaluations: int, seconds_left: float | None) -> None:
        """Notes how far the running job is."""
        job.evaluation, job.evaluations, job.seconds_left = evaluation, evaluations, seconds_left
        self._publish(job)

    def done(self, job: StudioJob, result: bytes | None = None, target: str | None = None) -> None:
        """Ends a job whose picture is there: in `result`, or saved in the data folder as `target`."""
        with self._lock:
            job.result = result
            job.target = target or job.target
            if job.started is not None:
                self._seconds.append(time.time() - job.started)
            self._end(job, State.DONE)

    def failed(self, job: StudioJob, error: str, field: str | None = None) -> None:
        """Ends a job that could not be made, with one line about why."""
        with self._lock:
            job.error, job.field = error, field
            self._end(job, State.FAILED)

    def cancelled(self, job: StudioJob) -> None:
        """Ends a running job that was cancelled."""
        with self._lock:
            self._end(job, State.CANCELLED)

    def put_back(self, job: StudioJob) -> None:
        """Puts a job back that was not made because the server stops: jobs of the page stay for the next start."""
        with self._lock:
            self._running = None
            if job.stop.is_set():
                self._end(job, State.CANCELLED)
            elif job.origin.kind == API:
                job.error = _STOPPED
                self._end(job, State.FAILED)
            else:
                job.state, job.started, job.evaluation = State.QUEUED, None, 0
                self._turns.put_back(job)
                self._note(job)
                with suppress(Failure):  # then it has the turn that it had
                    self._journal.order([(job.id, job.turn)])

    # ------------------------------------------------------------------------------------------------ start and end

    def restore(self) -> int:
        """Takes over what the journal holds from an earlier start; returns how many jobs go on.

        Jobs of the page that had not ended wait again, in their order; those of other programs, which are gone, have
        failed.
        """
        with self._lock:
            resumed = 0
            for entry in self._journal.entries():
                job = job_of(entry)
                if job.error is None:
                    job.shown = self._show(job.request)
                self._jobs[job.id] = job
                if job.state.is_end and entry.state == job.state.value:
                    continue
                if job.state.is_end or job.origin.kind == API:
                    job.error = job.error or _DIED
                    self._end(job, State.FAILED)
                    continue
                if entry.state != State.QUEUED.value:
                    self._note(job)
                self._turns.restore(job)
                resumed += 1
            self._jobs = dict(sorted(self._jobs.items(), key=lambda pair: pair[1].created))
            self._forget_old()
            self._journal.trim()
            self._lock.notify_all()
            return resumed

    def close(self) -> None:
        """Takes no more jobs and gives out none; jobs of other programs have failed, those of the page stay."""
        with self._lock:
            self._closed = True
            for job in self._turns.clear():
                if job.origin.kind == API:
                    job.error = _STOPPED
                    self._end(job, State.FAILED)
                else:
                    self._turns.restore(job)
            self._lock.notify_all()

    @property
    def closed(self) -> bool:
        """Whether the queue gives out no more jobs."""
        return self._closed

    # ------------------------------------------------------------------------------------------------ inside

    def _accepted(self, request: Request, origin: Origin, keep: bool, group: str) -> StudioJob:
        if request.seed is None:
            raise InputError("a job's request has a seed, so that it makes the same picture whenever it is made")
        id = secrets.token_hex(8)
        target = self._name(request, id) if keep else None
        return StudioJob(id, origin, request, group, keep, target, shown=self._show(request), created=time.time())

    def _end(self, job: StudioJob, state: State) -> None:
        """Ends a job, under the lock: in the journal first, then for those who wait."""
        job.state, job.ended, job.seconds_left = state, time.time(), None
        if self._running is job:
            self._running = None
        self._note(job)
        self._ends += 1
        if self._ends >= _TRIM:
            self._ends = 0
            with suppress(Failure):
                self._journal.trim()
        self._forget_old()
        self._publish(job)
        self._waiting.release(job.id)  # those who wait and listen have heard of the end by then
        self._ended(job)

    def _note(self, job: StudioJob) -> None:
        """Writes a job's state into the journal.

        Where that fails, the journal says that the job has not ended, so that after a restart it is looked at again,
        and its picture is not made twice.
        """
        values = {name: getattr(job, name) for name in ("error", "field", "started", "ended", "target")}
        try:
            self._journal.update(job.id, job.state.value, **values)
        except Failure as error:
            warnings.warn(str(error), stacklevel=1)  # of this line, so that it is shown once

    def _forget_old(self) -> None:
        """Forgets the oldest of many jobs that have ended, and pictures that nobody takes."""
        ended = [job for job in self._jobs.values() if job.state.is_end]
        for job in ended[: max(len(ended) - _HISTORY, 0)]:
            del self._jobs[job.id]
        size = 0
        for job in reversed(ended):
            size += len(job.result or b"")
            if size > _RESULT_BYTES:
                job.result = None

    def _seconds_until(self, ends: int) -> int:
        """Returns the seconds until so many jobs have ended, from those of the last ones."""
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else _FIRST_GUESS
        return max(1, min(math.ceil(mean * ends), 3600))

    def _publish(self, job: StudioJob) -> None:
        if self._events.listeners:
            self._events.publish({"type": "job", "job": job.to_json()})

    def _publish_order(self) -> None:
        self._events.publish({"type": "queue", "order": self._turns.ids})
