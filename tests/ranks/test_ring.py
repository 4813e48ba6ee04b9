"""The addresses of a ring are those of MLX's hostfile, and its connections alone are shut down."""

import json
import socket

import pytest

from mlx_sd.ranks import ring


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(text) makes it MLX's hostfile."""

    def hostfile(text: str) -> None:
        (tmp_path / "hosts.json").write_text(text)
        monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts.json"))

    return hostfile


def test_addresses_are_read(write):
    write(json.dumps([["10.0.0.2:32323", "10.0.1.2:32324"], ["[fe80::1]:32325"]]))
    assert ring.addresses(2) == [[("10.0.0.2", 32323), ("10.0.1.2", 32324)], [("fe80::1", 32325)]]
    assert ring.addresses(3) == []


@pytest.mark.parametrize(
    "text", ["", "{}", "5", "[]", '[["a"], ["b"]]', "[[], []]", "[[5], [6]]", '["a:1", null]', "["]
)
def test_a_file_that_is_no_hostfile_has_no_addresses(text, write):
    write(text)
    assert ring.addresses(2) == []


def test_without_a_hostfile_there_are_no_addresses(monkeypatch, tmp_path):
    monkeypatch.delenv("MLX_HOSTFILE", raising=False)
    assert ring.addresses(2) == []
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "missing.json"))
    assert ring.addresses(2) == []


def test_connections_of_the_ring_alone_are_shut_down():
    with socket.create_server(("127.0.0.1", 0)) as ours, socket.create_server(("127.0.0.1", 0)) as foreign:
        near, far = (socket.create_connection(server.getsockname()) for server in (ours, foreign))
        with near, far, ours.accept()[0] as near_end, foreign.accept()[0] as far_end:
            assert ring.break_off([[ours.getsockname()], [("192.0.2.1", 9)]]) == 2
            for end in (near, near_end):
                assert end.recv(1) == b""
            far.sendall(b"x")
            assert far_end.recv(1) == b"x"
            assert ring.break_off([[ours.getsockname()]]) == 0  # nothing is connected any more
