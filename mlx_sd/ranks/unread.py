"""Output that nobody reads: MLX's launcher reads no more of a rank once it has asked it to end.

A rank that goes on would wait for ever when the pipe is full.
"""

import contextlib
import os
import sys
import threading

ROOM = 16384  # bytes that are passed on at once, and again at the end: the pipe holds 64 KB while nobody reads


class Unread:
    """Keeps the standard streams from being waited for until `close`; their first and last lines are passed on."""

    def __init__(self) -> None:
        self._streams = [Stream(number) for number in (1, 2)]

    def close(self) -> None:
        """Gives the streams back, which have room for the last lines."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for forwarded in self._streams:
            forwarded.close()


class Stream:
    """One stream, in whose place a pipe is put, which a thread reads."""

    def __init__(self, number: int) -> None:
        self._number, self._original = number, os.dup(number)
        self._left, self._end = ROOM, b""
        self._gone = False  # nobody will read, such as a terminal of ssh that has ended
        os.set_blocking(self._original, False)
        reader, writer = os.pipe()
        os.dup2(writer, number)
        os.close(writer)
        self._thread = threading.Thread(target=self._forward, args=(reader,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Puts the stream back, after the last of what was written to it."""
        os.dup2(self._original, self._number)
        self._thread.join(5)
        self._write(self._end)
        if self._gone:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._number)
        else:
            os.set_blocking(self._original, True)

    def _forward(self, reader: int) -> None:
        """Passes on what there is room for, and keeps the last of the rest."""
        while content := os.read(reader, 8192):
            now, later = content[: self._left], content[self._left :]
            self._left -= len(now)
            self._end = (self._end + later)[-ROOM:]
            self._write(now)

    def _write(self, content: bytes) -> None:
        try:
            if content:
                os.write(self._original, content)
        except BlockingIOError:
            pass
        except OSError:
            self._gone = True
