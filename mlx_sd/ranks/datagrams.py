"""Heartbeats on the network: sockets, and the thread that sends and hears.

They go to the ports of UDP whose numbers MLX's hostfile gives for TCP. Over Thunderbolt a rank may reach only its
neighbours in the ring, so each passes on to its neighbours what is new to it.
"""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Sequence

from .members import INTERVAL, LIMIT, Members
from .ring import Address

HURRY = 0.1  # seconds between those of the start, until all others have been heard
REPEATS = 3  # times that the last heartbeat is sent, since datagrams may be lost


class Datagrams:
    """Sends the heartbeats of a rank to all others, and hears theirs, in a thread of its own.

    The thread does not touch MLX, whose arrays belong to threads.
    """

    def __init__(self, members: Members, addresses: Sequence[Sequence[Address]]) -> None:
        """addresses: of each rank, those at which it listens."""
        self._members, self._addresses = members, addresses
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._run, daemon=True)
        self._sources: dict[int, Address] = {}  # where what a rank has sent came from, which an answer reaches
        self._listening: list[socket.socket] = []
        self._sending: dict[int, list[socket.socket]] = {}  # connected, so that refusals come back

    def open(self) -> str:
        """Begins, and returns what is wrong where this rank cannot listen, or ""; it sends in any case."""
        problem = ""
        for rank, addresses in enumerate(self._addresses):
            for address in addresses:
                opened = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
                opened.setblocking(False)
                if rank == self._members.rank:
                    self._listening.append(opened)
                    try:
                        opened.bind(address)
                    except OSError as error:
                        problem = f"UDP port {address[1]} of {address[0]} cannot be used ({error.strerror})"
                else:
                    self._sending.setdefault(rank, []).append(opened)
                    with contextlib.suppress(OSError):  # no way to it: others may pass on what is sent
                        opened.connect(address)
        self._thread.start()
        return problem

    def close(self) -> None:
        """Ends, after the thread has."""
        self._stop.set()
        self._thread.join(5)
        for opened in [*self._listening, *(opened for group in self._sending.values() for opened in group)]:
            opened.close()

    def send_last(self) -> None:
        """Sends a heartbeat that must not be lost, at once."""
        for _ in range(REPEATS):
            self._send(self._members.beat(), range(len(self._addresses)))

    def _run(self) -> None:
        """Sends and hears until the end."""
        due = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for opened in self._listening:
                selector.register(opened, selectors.EVENT_READ, None)
            for rank, group in self._sending.items():
                for opened in group:
                    selector.register(opened, selectors.EVENT_READ, rank)
            while not self._stop.is_set():
                self._members.tick()
                if time.monotonic() >= due:
                    self._send(self._members.beat(), range(len(self._addresses)))
                    due = time.monotonic() + (INTERVAL if self._members.heard() else HURRY)
                for key, _ in selector.select(min(HURRY, max(0.0, due - time.monotonic()))):
                    if isinstance(key.fileobj, socket.socket):
                        self._hear(key.fileobj, key.data)

    def _hear(self, opened: socket.socket, rank: int | None) -> None:
        """Reads one datagram; rank: the one that the socket is connected with."""
        try:
            content, source = opened.recvfrom(LIMIT + 1)
        except ConnectionRefusedError:
            if rank is not None:
                self._members.refuse(rank)
            return
        except OSError:
            return
        if (news := self._members.hear(content)) is None:
            return
        sender, onward = news
        if rank is None:
            self._sources[sender] = source
        self._send(onward, {(self._members.rank + offset) % len(self._addresses) for offset in (1, -1)} - {sender})

    def _send(self, content: bytes, ranks: Iterable[int]) -> None:
        """Sends a datagram to some ranks; where one cannot be reached, nothing happens."""
        for rank in ranks:
            for opened in self._sending.get(rank, ()):
                try:
                    opened.send(content)
                except ConnectionRefusedError:
                    self._members.refuse(rank)
                except OSError:
                    pass
            if rank == (self._members.rank - 1) % len(self._addresses) and rank in self._sources:
                with contextlib.suppress(OSError):
                    self._listening[0].sendto(content, self._sources[rank])
