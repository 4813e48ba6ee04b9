"""The order of waiting jobs: clients take turns, and jobs of one client stay in their order."""

import bisect
from collections.abc import Iterable, Sequence

from .job import StudioJob


class Turns:
    """Waiting jobs in order. Each has the number of a turn; in a turn every client has one job (round robin).

    A job that is added takes its client's next free turn, behind the jobs of that turn that are there already. To put
    jobs into another order deals the same turns out again.
    """

    def __init__(self) -> None:
        self._jobs: list[StudioJob] = []
        self._current = 0  # turn of the job that was taken last
        self._served: dict[str, int] = {}  # client -> turn of its job that was taken last

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def ids(self) -> list[str]:
        """Returns the ids of the jobs in order."""
        return [job.id for job in self._jobs]

    def add(self, job: StudioJob) -> None:
        """Puts a job in its place, and writes its turn into it."""
        client = job.origin.client
        last = max((waiting.turn for waiting in self._jobs if waiting.origin.client == client), default=-1)
        job.turn = max(self._current, self._served.get(client, -1) + 1, last + 1)
        self.restore(job)

    def restore(self, job: StudioJob) -> None:
        """Puts a job back that has its turn already, behind others of the same turn."""
        self._jobs.insert(bisect.bisect([waiting.turn for waiting in self._jobs], job.turn), job)

    def put_back(self, job: StudioJob) -> None:
        """Puts a job in front that was taken and not made."""
        if self._jobs:
            job.turn = min(job.turn, self._jobs[0].turn)
        self._jobs.insert(0, job)

    def take(self) -> StudioJob | None:
        """Takes the first job out; None where there is none."""
        if not self._jobs:
            return None
        job = self._jobs.pop(0)
        self._current = max(self._current, job.turn)
        self._served = {client: turn for client, turn in self._served.items() if turn >= self._current}
        self._served[job.origin.client] = job.turn
        return job

    def remove(self, job: StudioJob) -> bool:
        """Takes a job out; False where it does not wait."""
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        return True

    def reorder(self, ids: Sequence[str]) -> list[StudioJob]:
        """Puts jobs into another order; those that are not named keep their order behind them. Returns all in order."""
        places = {id: place for place, id in enumerate(dict.fromkeys(ids))}
        turns = [job.turn for job in self._jobs]
        self._jobs.sort(key=lambda job: places.get(job.id, len(places)))
        for job, turn in zip(self._jobs, turns, strict=True):
            job.turn = turn
        return list(self._jobs)

    def clear(self) -> Iterable[StudioJob]:
        """Takes all jobs out and returns them in order."""
        jobs, self._jobs = self._jobs, []
        return jobs
