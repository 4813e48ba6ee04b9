"""The survey of all hosts at the same time: what each answers, how its clock stands, the connections of the ring."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from .connection import Connection, HostError
from .hostfile import RING, Hostfile
from .links import TIMEOUT, Link

_FACTS = 60.0  # seconds: a cold disk may take long to read MLX
_QUICK = 10.0  # seconds, of answers that need nothing
_PINGS = 9  # of the clock, of which the fastest counts


@dataclass(frozen=True)
class Options:
    """What a survey asks: as of the options of the command."""

    python: str
    folder: str
    model: str | None = None
    output: str | None = None
    first_port: int = 32323
    connections: int = 1
    patience: float = 10.0  # seconds that a host may take to answer


@dataclass
class Finding:
    """One host, as the survey has seen it; `problem` is why it says nothing."""

    name: str
    rank: int
    problem: str = ""
    noise: list[str] = field(default_factory=list)  # lines that its shell prints before everything else
    facts: dict[str, Any] = field(default_factory=dict)
    clock: float = 0.0  # seconds that it is ahead of this machine's
    clock_error: float = 0.0  # seconds: half of the round trip in which it was read
    latency: float = 0.0  # seconds of a round trip from this machine, by ssh
    listening: list[tuple[str, int, str]] = field(default_factory=list)  # its addresses: ip, port, the system's error
    reached_from: str = ""  # the name of the host before it in the ring
    links: list[Link] = field(default_factory=list)  # from that host to its addresses


def survey(hostfile: Hostfile, options: Options, show: Callable[[str, list[str]], None]) -> list[Finding]:
    """Asks all hosts at the same time; returns a finding for each, in the order of ranks.

    show: called with the title of the work in progress and the names of the hosts that it waits for.
    """
    findings = [Finding(host.name, host.rank) for host in hostfile.hosts]
    addresses = hostfile.addresses(options.first_port, options.connections)
    with ExitStack() as stack:
        connections = []
        for host in hostfile.hosts:
            connection = Connection(host, options.python, options.folder, hostfile.variables, options.patience)
            stack.callback(connection.close)
            connections.append(connection)
        pool = ThreadPoolExecutor(max_workers=len(findings))
        stack.callback(pool.shutdown)
        for connection in connections:
            stack.callback(connection.stop)  # first of all at the end: whatever waits for an answer stops

        def everywhere(title: str, work: Callable[[int], None]) -> None:
            """Does the work of all hosts that answer, at the same time."""
            waiting = {finding.name for finding in findings if not finding.problem}

            def attempt(i: int) -> None:
                """Does the work of one host, and keeps why it cannot be done."""
                try:
                    work(i)
                except HostError as error:
                    findings[i].problem = str(error)
                waiting.discard(findings[i].name)

            tasks = [pool.submit(attempt, i) for i, finding in enumerate(findings) if not finding.problem]
            while not all(task.done() for task in tasks):
                show(title, sorted(waiting))
                time.sleep(0.05)
            for task in tasks:
                task.result()

        everywhere("asking", lambda i: _ask(connections[i], findings[i], options))
        if hostfile.backend == RING and len(findings) > 1:
            everywhere("opening ports of", lambda i: _listen(connections[i], findings[i], addresses[i]))
            everywhere("connecting from", lambda i: _connect(connections[i], findings, i))
    return findings


def _ask(connection: Connection, finding: Finding, options: Options) -> None:
    """Asks a host for its facts and its time."""
    _, finding.noise = connection.greet()
    finding.facts = connection.ask("facts", _FACTS, folder=options.folder, model=options.model, output=options.output)
    least = float("inf")
    for _ in range(_PINGS):
        before = time.time()
        reading = connection.ask("time", _QUICK)["time"]
        after = time.time()
        if after - before < least:
            least = after - before
            finding.clock = reading - (before + after) / 2
    finding.latency, finding.clock_error = least, least / 2


def _listen(connection: Connection, finding: Finding, addresses: Sequence[tuple[str, int]]) -> None:
    """Lets a host listen where its rank will."""
    problems = connection.ask("listen", _QUICK, addresses=addresses)["problems"]
    finding.listening = [(ip, port, problem) for (ip, port), problem in zip(addresses, problems, strict=True)]


def _connect(connection: Connection, findings: Sequence[Finding], i: int) -> None:
    """Lets a host connect to the next one in the ring, as its rank will."""
    following = findings[(i + 1) % len(findings)]
    addresses = [(ip, port) for ip, port, problem in following.listening if not problem]
    if following.problem or not addresses:
        return
    answer = connection.ask("connect", _QUICK + (TIMEOUT + 1) * len(addresses), addresses=addresses)
    following.links = [Link(**link) for link in answer["links"]]
    following.reached_from = findings[i].name
