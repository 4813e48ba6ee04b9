"""The connections of MLX's ring, tried out: a host listens at its addresses, and the rank before it connects.

Ranks tell each other that they work by datagrams at the same ports (mlx_sd/ranks/datagrams.py), so these are tried too.
"""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

Address = tuple[str, int]  # ip, port

TIMEOUT = 3.0  # seconds that a connection may take
_ROUNDS = 10  # of the latency, of which the fastest counts
_CHUNK = 1 << 21  # bytes sent at a time
_DURATION = 0.25  # seconds of sending
_HEADER = 4  # bytes of the length of a message
_BEATS, _BEAT_WAIT = 3, 0.3  # datagrams that are sent, and seconds for which each answer is awaited


class Link(NamedTuple):
    """A connection as it was tried: seconds of a round trip and bytes a second, or what went wrong."""

    latency: float = 0.0
    rate: float = 0.0
    heartbeats: bool = False  # whether datagrams arrive too
    problem: str = ""  # the name of the system's error, such as ECONNREFUSED


class Listener:
    """Listens at addresses until it is closed, and confirms each message that arrives."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def listen(self, addresses: Sequence[Address]) -> list[str]:
        """Listens at addresses of this host; returns for each the name of the system's error, or ""."""
        return [self._listen(address) for address in addresses]

    def close(self) -> None:
        """Ends listening; connections stay."""
        for listening in self._sockets:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, which holds the port
            listening.close()
        self._sockets.clear()

    def _listen(self, address: Address) -> str:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as MLX does
            listening.bind(address)
            listening.listen()
        except OSError as error:
            listening.close()
            return _name(error)
        self._sockets.append(listening)
        threading.Thread(target=_accept, args=(listening,), daemon=True).start()
        self._listen_to_datagrams(address)
        return ""

    def _listen_to_datagrams(self, address: Address) -> None:
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            listening.bind(address)
        except OSError:  # taken: no datagram is answered
            listening.close()
            return
        self._sockets.append(listening)
        threading.Thread(target=_answer, args=(listening,), daemon=True).start()


def connect(addresses: Sequence[Address], timeout: float = TIMEOUT) -> list[Link]:
    """Connects to addresses at which a Listener listens, one after the other, and measures each connection."""
    return [_measure(address, timeout) for address in addresses]


def _measure(address: Address, timeout: float) -> Link:
    try:
        with socket.create_connection(address, timeout) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            latency = min(_exchange(connection, b"\0") for _ in range(_ROUNDS))
            rate = max(_rates(connection))
    except OSError as error:
        return Link(problem=_name(error))
    return Link(latency, rate, _hears(address))


def _hears(address: Address) -> bool:
    """Returns whether a datagram is answered: of a few, since any may be lost."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.settimeout(_BEAT_WAIT)
        for _ in range(_BEATS):
            with contextlib.suppress(OSError):  # nothing came in time, or nobody listens
                sending.connect(address)
                sending.send(b"\0")
                return bool(sending.recv(1))
    return False


def _rates(connection: socket.socket) -> Iterator[float]:
    """Yields bytes a second of chunk after chunk; the first ones are slow, while TCP widens its window."""
    chunk, end = bytes(_CHUNK), time.perf_counter() + _DURATION
    while True:
        yield _CHUNK / _exchange(connection, chunk)
        if time.perf_counter() > end:
            return


def _exchange(connection: socket.socket, message: bytes) -> float:
    """Sends a message and waits until it is confirmed; returns the seconds."""
    clock = time.perf_counter()
    connection.sendall(len(message).to_bytes(_HEADER, "big") + message)
    if not connection.recv(1):
        raise ConnectionResetError(errno.ECONNRESET, "closed")
    return time.perf_counter() - clock


def _accept(listening: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_confirm, args=(connection,), daemon=True).start()


def _answer(listening: socket.socket) -> None:
    """Answers each datagram, until the socket is closed."""
    with contextlib.suppress(OSError):
        while True:
            content, source = listening.recvfrom(1)
            if not content:  # the socket is shut down
                return
            listening.sendto(content, source)


def _confirm(connection: socket.socket) -> None:
    """Reads messages and answers each with one byte, until the other side is gone."""
    with connection, contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(_CHUNK)
        while header := _read(connection, memoryview(buffer)[:_HEADER]):
            length = int.from_bytes(header, "big")
            if length > _CHUNK or not _read(connection, memoryview(buffer)[:length]):
                return
            connection.sendall(b"\0")


def _read(connection: socket.socket, place: memoryview) -> bytes | memoryview:
    """Fills `place`; returns it, or nothing where the connection ends."""
    filled = 0
    while filled < len(place):
        size = connection.recv_into(place[filled:])
        if not size:
            return b""
        filled += size
    return place


def _name(error: OSError) -> str:
    """Returns the name of a system's error, which unlike its number is the same on every system."""
    if isinstance(error, TimeoutError):
        return "ETIMEDOUT"
    number: Any = error.errno
    return errno.errorcode.get(number, str(error))
