"""Connections of the ring: what is measured was exchanged, and what cannot be reached has the system's name for it."""

import socket
import time

import pytest

from mlx_sd.hosts.links import Link, Listener, connect


@pytest.fixture
def listener():
    """A listener that is closed in the end."""
    made = Listener()
    yield made
    made.close()


def free_address():
    """Returns an address of this machine at which nothing listens."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()


def test_connections_are_measured_one_for_each_address(listener):
    addresses = [free_address(), free_address()]
    assert listener.listen(addresses) == ["", ""]
    first, second = connect(addresses)
    for link in (first, second):
        assert 0 < link.latency < 1 and link.rate > 1e6 and link.heartbeats and not link.problem


def test_a_port_that_takes_no_datagrams_has_no_heartbeats(listener):
    address = free_address()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(address)
        assert listener.listen([address]) == [""]
        [link] = connect([address])
    assert link.latency and not link.heartbeats and not link.problem


def test_latency_is_that_of_the_other_side(listener, monkeypatch):
    """A listener that answers a twentieth of a second later is measured as one."""
    address = free_address()
    listener.listen([address])
    receive = socket.socket.recv
    monkeypatch.setattr(socket.socket, "recv", lambda self, size: (time.sleep(0.05), receive(self, size))[1])
    [link] = connect([address])
    assert 0.05 <= link.latency < 0.2


def test_what_does_not_listen_has_the_systems_name():
    assert connect([free_address()]) == [Link(problem="ECONNREFUSED")]


def test_what_does_not_answer_is_given_up(listener):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        clock = time.monotonic()
        assert connect([mute.getsockname()], timeout=0.2) == [Link(problem="ETIMEDOUT")]
        assert time.monotonic() - clock < 2


def test_a_connection_that_is_closed_has_the_systems_name():
    with socket.socket() as closing:
        closing.bind(("127.0.0.1", 0))
        closing.listen()
        closing.settimeout(5)
        import threading

        threading.Thread(target=lambda: closing.accept()[0].close()).start()
        [link] = connect([closing.getsockname()])
    assert link.problem in ("ECONNRESET", "EPIPE")


def test_addresses_that_are_taken_or_of_another_machine_have_the_systems_name(listener):
    address = free_address()
    assert listener.listen([address, address, ("192.0.2.1", 1)]) == ["", "EADDRINUSE", "EADDRNOTAVAIL"]
    listener.close()
    assert connect([address])[0].problem == "ECONNREFUSED"


def test_what_is_no_message_is_not_answered(listener):
    address = free_address()
    listener.listen([address])
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"\xff\xff\xff\xff")  # a message of four gigabytes
        assert connection.recv(1) == b""
