"""Simulated clusters: Macs that take jobs and exchange rows are events in time; equal arguments give equal results."""

import heapq
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .cluster_costs import Picture
from .networks import Network

MESSAGES = 2  # of an exchange that wait for each other: the word that all ranks are fine, and the rows


class Batch(NamedTuple):
    """A batch that has ended: seconds from the start of all Macs, and jobs and busy seconds of each."""

    seconds: float
    jobs: tuple[int, ...]
    busy: tuple[float, ...]


class Shared(NamedTuple):
    """One picture that two Macs have shared: its seconds, and those in which both waited for the exchange."""

    seconds: float
    exchanging: float


def lengths(jobs: int, spread: float, seed: int) -> list[float]:
    """Returns how long each job takes, as a factor: log-normal around 1, of that relative spread."""
    generator = random.Random(seed)
    return [generator.lognormvariate(0.0, spread) if spread else 1.0 for _ in range(jobs)]


def batch(seconds: Sequence[float], factors: Sequence[float], stealing: bool, start: float = 0.0) -> Batch:
    """Lets workers do independent jobs.

    seconds: that a job of length 1 takes each worker, of which there is at least one. factors: the length of each job,
    in order. stealing: a worker that is free takes the next job; otherwise the r-th of N has every N-th from the r-th
    on. start: seconds until a worker takes its first job.
    """
    workers = len(seconds)
    shares = [range(rank, len(factors), workers) for rank in range(workers)]
    shared = iter(range(len(factors)))
    queues: list[Iterator[int]] = [shared if stealing else iter(jobs) for jobs in shares]
    jobs, busy, end = [0] * workers, [0.0] * workers, 0.0
    free = [(start, rank) for rank in range(workers)]  # events: at a time, a worker is free
    while free:
        time, rank = heapq.heappop(free)
        job = next(queues[rank], None)
        if job is None:
            continue
        duration = seconds[rank] * factors[job]
        jobs[rank] += 1
        busy[rank] += duration
        end = max(end, time + duration)
        heapq.heappush(free, (time + duration, rank))
    return Batch(end, tuple(jobs), tuple(busy))


def share(first: Picture, second: Picture, network: Network, spread: float = 0.0, seed: int = 0) -> Shared:
    """Lets two Macs share one guided picture, of which each computes a row and sends it to the other.

    first, second: the picture on the one Mac and on the other. From T-GATE's gate on, the first computes the row that
    is left. spread: of the seconds of each evaluation, relative, drawn anew for each Mac.
    """
    generator = random.Random(seed)

    def drawn(seconds: float) -> float:
        """Returns the seconds with their spread."""
        return seconds * generator.lognormvariate(0.0, spread) if spread else seconds

    time = exchanging = 0.0
    for evaluation, (sent, exchanges) in enumerate(zip(first.sent, first.exchanges, strict=True)):
        macs = (first,) if evaluation >= first.gate else (first, second)
        exchange = network.seconds(sent, exchanges * MESSAGES)  # begins when the slower of the two is ready
        time += max(drawn(mac.row[evaluation]) for mac in macs) + exchange
        exchanging += exchange
    return Shared(time, exchanging)
