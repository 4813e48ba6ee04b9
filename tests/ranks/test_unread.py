"""A process whose output nobody reads goes on, and its first and last lines arrive."""

import contextlib
import os

import pytest

from mlx_sd.ranks.unread import ROOM, Stream


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for number in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(number)


def read_all(reader: int) -> bytes:
    os.set_blocking(reader, False)
    content = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(reader, 65536):
            content += part
    return content


def test_a_pipe_that_nobody_reads_is_not_waited_for(pipe):
    reader, writer = pipe
    stream = Stream(writer)
    lines = [b"line %06d\n" % i for i in range(100_000)]  # far more than a pipe holds
    for start in range(0, len(lines), 500):
        os.write(writer, b"".join(lines[start : start + 500]))
    stream.close()
    os.write(writer, b"the end\n")
    content = read_all(reader)
    assert len(content) == 2 * ROOM + len(b"the end\n")
    assert content.startswith(b"".join(lines[:100])) and content.endswith(b"".join(lines[-100:]) + b"the end\n")


def test_little_is_passed_on_whole(pipe):
    reader, writer = pipe
    stream = Stream(writer)
    os.write(writer, b"one\n")
    stream.close()
    os.write(writer, b"two\n")
    assert read_all(reader) == b"one\ntwo\n"


def test_a_reader_that_has_gone_is_no_error(pipe):
    reader, writer = pipe
    os.close(reader)
    stream = Stream(writer)
    os.write(writer, b"one\n")
    stream.close()
    os.write(writer, b"two\n")
