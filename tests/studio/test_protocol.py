"""What stands below the app: bounded heads, connections and waiting times, over real sockets."""

import json
import socket
import time
from contextlib import closing

import pytest

from mlx_sd.studio.guard import protocol
from mlx_sd.studio.guard.headers import FIXED
from tests.support.studio import serving


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("studio")) as server:
        yield int(server.address.rpartition(":")[2])


def connected(port: int, seconds: float = 10) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def all_of(connection: socket.socket) -> bytes:
    """Returns what comes until the server closes the connection."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def exchange(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes that end a connection; returns status, headers and body of the first answer."""
    with closing(connected(port)) as connection:
        connection.sendall(data)
        head, _, body = all_of(connection).partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    fields = dict(header.lower().split(": ", 1) for header in headers)
    return int(line.split()[1]), fields, body[: int(fields["content-length"])]  # of the first answer


HOST = b"Host: 127.0.0.1\r\nConnection: close\r\n"
MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50) + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"GET /api/state HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /api/state HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    "a long line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"x-%d: y\r\n" % i for i in range(20_000)) + b"\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\n evil: a\r\n" + HOST + b"\r\n",
    "two lengths": b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a length below zero": b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "a strange encoding": b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_is_refused_in_one_line_with_all_headers(name, port):
    status, headers, body = exchange(port, MALFORMED[name])
    assert 400 <= status < 600 and status != 500
    assert json.loads(body)["error"]["message"] and b"\n" not in body
    assert headers.items() >= FIXED.items() and "server" not in headers


def test_the_old_protocol_without_a_host_is_refused(port):
    assert exchange(port, b"GET /api/state HTTP/1.0\r\n\r\n")[0] == 400


def test_a_request_to_another_host_is_refused_on_the_wire(port):
    for line in (b"GET /api/state HTTP/1.1\r\nHost: evil.example\r\n", b"GET http://evil.example/ HTTP/1.1\r\n" + HOST):
        status, _, body = exchange(port, line + b"Connection: close\r\n\r\n")
        assert status in (400, 421) and b"version" not in body


def test_a_broken_piece_of_a_body_ends_the_connection_and_no_more(port, caplog):
    head = (
        b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with closing(connected(port)) as connection:
        connection.sendall(head + b"zz\r\n")
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 400") or answer == b""
    assert "Traceback" not in caplog.text


def test_a_large_body_that_is_refused_gets_its_answer(port):
    size = 40 << 20
    with closing(connected(port, 30)) as connection:
        head = b"POST /api/images HTTP/1.1\r\n" + HOST + b"Content-Type: image/png\r\nContent-Length: %d\r\n\r\n" % size
        connection.sendall(head)
        for _ in range(size >> 20):
            connection.sendall(bytes(1 << 20))
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 413") and b"32 MiB" in answer


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_a_head_that_does_not_come_to_its_end_is_not_waited_for(start, port, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    with closing(connected(port)) as connection:
        connection.sendall(start)
        begin = time.monotonic()
        assert all_of(connection) == b""
        assert time.monotonic() - begin < 5


def test_drops_of_a_head_do_not_lengthen_the_wait(port, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    with closing(connected(port)) as connection:
        begin = time.monotonic()
        with pytest.raises(OSError):  # the server has closed the connection
            for _ in range(200):
                connection.sendall(b"a")
                time.sleep(0.05)
        assert time.monotonic() - begin < 8


def test_a_second_head_on_a_connection_must_come_too(port, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    with closing(connected(port)) as connection:
        connection.sendall(b"GET /api/jobs HTTP/1.1\r\nHost: localhost\r\n\r\nGET /api")
        answer = all_of(connection)
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 200")


def test_a_slow_request_in_progress_is_not_cut_by_the_deadline_of_heads(port, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    with closing(connected(port)) as connection:
        connection.sendall(
            b"POST /api/check HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{"
        )
        time.sleep(0.6)
        connection.sendall(b"}")
        assert all_of(connection).startswith(b"HTTP/1.1 400")


def test_connections_above_the_bound_are_closed_and_those_below_go_on(port, monkeypatch):
    monkeypatch.setattr(protocol, "CONNECTIONS", 5)
    connections = [connected(port) for _ in range(5)]
    time.sleep(0.2)
    surplus = connected(port)
    assert all_of(surplus) == b""
    connections[0].sendall(b"GET /api/jobs HTTP/1.1\r\n" + HOST + b"\r\n")
    assert all_of(connections[0]).startswith(b"HTTP/1.1 200")
    for connection in (*connections, surplus):
        connection.close()


def test_a_client_that_reads_nothing_is_not_waited_for(port, monkeypatch):
    """Events are asked for many times on one connection that never reads; the answers to them fill all buffers."""
    monkeypatch.setattr(protocol, "STALL_SECONDS", 0.3)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", port))
    begin = time.monotonic()
    with closing(connection), pytest.raises(OSError):
        while time.monotonic() - begin < 30:
            connection.sendall(b"GET /api/state HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
    assert time.monotonic() - begin < 25
