"""Heartbeats over real sockets: the ranks of these tests are threads of one process."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from mlx_sd.ranks import beats, datagrams, members, ring
from mlx_sd.ranks.beats import Beats
from mlx_sd.ranks.datagrams import Datagrams
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.ranks.members import Members
from tests.support import launcher
from tests.support.launcher import wait_for

SECONDS = 20  # that anything may take on a machine that is busy


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Heartbeats every 50 ms."""
    monkeypatch.setattr(datagrams, "INTERVAL", 0.05)
    monkeypatch.setattr(datagrams, "HURRY", 0.02)
    monkeypatch.setattr(members, "GONE", 0.2)


@pytest.fixture
def hostfile(tmp_path, monkeypatch) -> Callable[[int], list[ring.Address]]:
    """hostfile(3) lists three ranks on this machine, and returns their addresses."""

    def write(count: int) -> list[ring.Address]:
        start = launcher.ports(count)
        hosts = [("127.0.0.1", start + i) for i in range(count)]
        path = tmp_path / "hosts.json"
        path.write_text(json.dumps([[f"{host}:{port}"] for host, port in hosts]))
        monkeypatch.setenv("MLX_HOSTFILE", str(path))
        return hosts

    return write


class Together:
    """The exchanges of threads that are ranks."""

    def __init__(self, size: int) -> None:
        self._barrier, self._values = threading.Barrier(size), [None] * size
        self.ranks = [SimpleNamespace(rank=i, size=size) for i in range(size)]
        for one in self.ranks:
            one.all = lambda holds, one=one: all(self._gather(one.rank, holds))
            one.share_text = lambda text, one=one: self._gather(one.rank, text)[0]

    def _gather(self, rank: int, value: object) -> list[object]:
        self._values[rank] = value
        self._barrier.wait(SECONDS)
        values = list(self._values)
        self._barrier.wait(SECONDS)
        return values


@pytest.fixture
def begin(hostfile) -> Iterator[Callable[[int], list[Beats]]]:
    """begin(3) are the heartbeats of three ranks."""
    with ExitStack() as stack:

        def start(size: int) -> list[Beats]:
            hosts = hostfile(size)
            started: dict[int, Beats] = {}
            together = Together(size)

            def one(rank: int) -> None:
                started[rank] = Beats.of(together.ranks[rank]).__enter__()

            threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SECONDS)
            for rank in range(size):
                stack.callback(started[rank].__exit__, None, None, None)
            begin.hosts = hosts
            return [started[rank] for rank in range(size)]

        begin = start
        yield start


def fall(one: Beats) -> None:
    """Ends heartbeats without a word, as a process that is killed."""
    one._datagrams.close()
    one.active = False


def test_facts_and_names_arrive_everywhere(begin):
    ranks = begin(3)
    assert all(one.active for one in ranks)
    ranks[1].tell(pictures=12, title="tents")
    wait_for(lambda: all(one.facts(1) == {"pictures": 12, "title": "tents"} for one in ranks), SECONDS)
    assert ranks[0].name(1) == f"rank 1 (host {socket.gethostname()})"
    assert [one.silent() for one in ranks] == [[], [], []]


def test_a_rank_that_ends_is_not_silent(begin):
    first, second = begin(2)
    second.__exit__(None, None, None)
    wait_for(lambda: first.state(1) == "ended", SECONDS)
    time.sleep(0.3)
    assert first.silent() == [] and first.faults() == ""


def test_a_rank_that_is_gone_is_named_by_all_others(begin):
    ranks = begin(3)
    fall(ranks[1])
    for one in (ranks[0], ranks[2]):
        wait_for(lambda one=one: one.silent() == [1], SECONDS)
        assert one.gone(1) and one.explain() == one.faults() == f"{one.name(1)} {one.reason(1)}"
        assert "ended without a word" in one.faults()


def test_a_rank_that_stops_is_named_by_all_others(begin, monkeypatch):
    ranks = begin(3)
    monkeypatch.setattr(members, "SILENCE", 0.5)
    stopped = ranks[2]._datagrams
    monkeypatch.setattr(stopped, "_send", lambda content, ranks: None)  # its sockets stay open
    for one in ranks[:2]:
        wait_for(lambda one=one: one.silent() == [2], SECONDS)
        assert not one.gone(2) and "stopped, asleep or cut off" in one.faults()


def test_an_error_of_a_rank_arrives_with_its_text(begin):
    first, second = begin(2)
    second.end("failed", "has failed: the disk is full")
    wait_for(lambda: first.silent() == [1], SECONDS)
    assert first.explain() == f"{first.name(1)} has failed: the disk is full"


def test_strangers_and_other_runs_are_not_heard(begin):
    first, _ = begin(2)
    other = Members(1, ["a", "b"], "another run")
    other.tell({"pictures": 99})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for content in (b"", b"\xff\x00", b"{}", b"[" * 1000, b"x" * 60_000, other.beat()):
            stranger.sendto(content, ring.addresses(2)[0][0])
    time.sleep(0.3)
    assert first.facts(1) == {} and first.silent() == [] and first._datagrams._thread.is_alive()


def test_a_port_that_is_taken_is_a_note(hostfile, begin, capfd, monkeypatch):
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ports = launcher.ports

    def occupied(count: int) -> int:
        start = ports(count)
        taken.bind(("127.0.0.1", start + 1))
        return start

    monkeypatch.setattr(launcher, "ports", occupied)
    monkeypatch.setattr(beats, "PATIENCE", 0.5)
    with taken:
        ranks = begin(2)
        assert [one.active for one in ranks] == [False, False]
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith("rank 1: UDP port") and "will not be noticed" in line
        assert [one.silent() for one in ranks] == [[], []] and ranks[0].explain() == ""


def test_neighbours_pass_heartbeats_on(hostfile):
    """As over Thunderbolt, where only the next rank's address can be reached, and answers come back."""
    hosts = hostfile(5)
    nowhere = ("127.0.0.1", launcher.ports(1))
    ranks = [Members(i, ["a"] * 5, "run") for i in range(5)]
    ways = [
        Datagrams(one, [[hosts[i] if i in (one.rank, (one.rank + 1) % 5) else nowhere] for i in range(5)])
        for one in ranks
    ]
    with ExitStack() as stack:
        for way in ways:
            assert way.open() == ""
        for way in ways[:2] + ways[3:]:
            stack.callback(way.close)
        wait_for(lambda: all(one.heard() for one in ranks), SECONDS)
        ways[2].close()  # without the one in the middle, the others still hear each other
        numbers = [[one._members[i].number for i in range(5)] for one in ranks]
        wait_for(
            lambda: all(
                ranks[i]._members[k].number > numbers[i][k] + 3 for i in (0, 1, 3, 4) for k in (0, 1, 3, 4) if i != k
            ),
            SECONDS,
        )
        assert all(ranks[i].silent() in ([], [2]) for i in (0, 1, 3, 4))


def test_one_process_alone_says_nothing(capfd):
    ranks = Ranks()
    with Beats.of(ranks) as alone:
        alone.tell(pictures=3)
        assert alone.facts(0) == {"pictures": 3} and alone.facts(1) == {}
        assert not alone.active and alone.silent() == [] and alone.reason(1) == "" and alone.name(0) == "rank 0"
    assert capfd.readouterr() == ("", "")


def test_without_a_hostfile_there_are_no_heartbeats(monkeypatch, capfd):
    monkeypatch.delenv("MLX_HOSTFILE", raising=False)
    ranks = SimpleNamespace(rank=0, size=2, all=lambda holds: holds)
    with Beats.of(ranks) as none:
        none.end("failed", "has failed")
        assert not none.active and none.silent() == [] and none.explain() == ""
    assert capfd.readouterr() == ("", "")
