"""The watch over the other ranks, in a thread of its own: the main thread may wait in MLX for one that is gone.

MLX's launcher ends all ranks where one has ended abnormally: with SIGTERM those of its own machine, with SIGHUP those
that it has started by ssh, whose parent then is gone too. Such requests tell less than the heartbeats do, so they wait
for them.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from . import ring
from .exchange import Ranks
from .unread import Unread

INTERVAL = 0.25  # seconds between two looks
LIMIT = 28.0  # seconds after a rank was heard last at which this process ends, whatever it does
LEAVE = 7.0  # seconds at least, from when that is noticed, in which the main thread may end by itself
FRESH = 1.0  # seconds after a request of the launcher from which a heartbeat shows that its rank was not the cause
EXCUSE = 30.0  # seconds after a rank's abnormal end in which requests of the launcher are due to it
DELAY = 1.0  # seconds until the others are said to go on: where they wait for the rank, they do not
STUCK = 3.0  # seconds after Ctrl-C at which connections are shut down, for which the main thread may wait


class Watch:
    """Watches the other ranks of this process while a `with` block runs; the main thread makes it.

    Where one is silent, connections are shut down, so that exchanges raise RankLost, and the process ends if the main
    thread does not end in time. keep_going: then the process goes on, and does not do what the launcher asks for.
    """

    def __init__(self, ranks: Ranks, keep_going: bool) -> None:
        self._ranks, self._beats, self._keep_going = ranks, ranks.beats, keep_going
        self._addresses = ring.addresses(ranks.size)
        self._parent = os.getppid()
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._run, daemon=True)
        self._signals, self._wake = socket.socketpair()
        self._handlers: dict[int, Any] = {}
        self._wakeup = -1  # that of before
        self._ignores_ctrl_c = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        self._fallen: dict[int, bool] = {}  # ranks that have fallen silent, and whether their process was gone
        self._noticed = -EXCUSE  # when the last of that was noticed
        self._unreported: set[int] = set()  # of them
        self._asked: float | None = None  # since when the launcher wants this process to end
        self._interrupted: float | None = None  # since when the main thread is to end as by Ctrl-C
        self._cuts = 2  # looks that shut connections down for a main thread that is stuck, however late they are
        self._due: float | None = None  # when the process ends, whatever it does
        self._unread: Unread | None = None
        self.leaving = False  # the main thread ends, and prints why

    def __enter__(self) -> "Watch":
        """Begins to watch the other ranks."""
        for end in (self._signals, self._wake):
            end.setblocking(False)
        if self._beats.active:
            self._wakeup = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) == signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, self._handle)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        if self._beats.active:
            signal.set_wakeup_fd(self._wakeup)
            # The launcher may still end those that have gone on, and this rank before it has printed why it ends.
            ignores = self.leaving or (self._keep_going and self._fallen)
            for number, handler in self._handlers.items():
                signal.signal(number, signal.SIG_IGN if ignores else handler)
        if self._unread is not None:
            self._unread.close()
        for end in (self._signals, self._wake):
            end.close()

    def speaks(self) -> bool:
        """Returns whether this rank prints why ranks end: the first of those that can.

        That may be one that has failed itself, unless others go on and say so.
        """
        states = {rank: self._beats.state(rank) for rank in range(self._ranks.size)}
        silent = {rank for rank in self._beats.silent() if states[rank] != "failed"}
        if self._keep_going:
            silent |= {rank for rank, state in states.items() if state == "failed"}
        return self._ranks.rank == next((rank for rank in states if rank not in silent), self._ranks.rank)

    def end_stopped(self) -> None:
        """Kills ranks of the same launcher on this machine that are stopped: the launcher would wait for them.

        A rank that has failed ends by itself, once it has said why.
        """
        host, _ = self._beats.process(self._ranks.rank)
        for rank in self._beats.silent():
            if self._beats.state(rank) == "failed":
                continue
            other, pid = self._beats.process(rank)
            stopped = self._beats.state(rank) == "working" and not self._beats.gone(rank)
            if stopped and pid and other == host and _parent(pid) == os.getppid() != 1:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def _run(self) -> None:
        """Looks until the end; the work of the thread."""
        while not self._stop.is_set():
            for number in self._received():
                if number == signal.SIGINT:
                    self._interrupted = self._interrupted or time.monotonic()
                elif number in self._handlers:
                    self._ask()
            if self._parent and os.getppid() != self._parent:
                self._parent = 0
                self._ask()
            self._look()

    def _received(self) -> bytes:
        """Returns the numbers of the signals that come within a while."""
        select.select([self._signals], [], [], INTERVAL)
        with contextlib.suppress(BlockingIOError):
            return self._signals.recv(100)
        return b""

    def _ask(self) -> None:
        """Notes that the launcher wants this process to end, or has ended itself."""
        self._asked = self._asked or time.monotonic()
        if self._keep_going and self._unread is None:
            self._unread = Unread()

    def _look(self) -> None:
        """Looks who has fallen silent and what the launcher asks for, and does what follows."""
        beats, now = self._beats, time.monotonic()
        fallen = {rank: beats.gone(rank) for rank in beats.silent() if beats.departed(rank)}
        if fallen.items() - self._fallen.items():
            self._noticed = now
            ring.break_off(self._addresses)
            self._unreported |= fallen.keys() - self._fallen.keys()
            self._fallen |= fallen
            if self._due is None and not self._keep_going:
                self._due = now + max(LEAVE, LIMIT - max(map(beats.unheard, fallen)))
        if self._keep_going and now - self._noticed < EXCUSE:
            self._asked = None
        if self._keep_going and now - self._noticed > DELAY:
            self._report()
        due_to_nobody = self._asked is not None and self._due is None and self._live_since(self._asked + FRESH)
        together = any(beats.state(rank) == "interrupted" for rank in range(self._ranks.size))
        if self._interrupted is None and not self.leaving and (due_to_nobody or together):
            self._interrupted = now
            os.kill(os.getpid(), signal.SIGTERM if signal.SIGTERM in self._handlers else signal.SIGINT)
        if self._cuts and self._interrupted is not None and now - self._interrupted > STUCK:
            self._cuts -= 1
            ring.break_off(self._addresses)
        if self._due is not None and now > self._due + (0 if self.speaks() else 1):
            self._end()

    def _live_since(self, moment: float) -> bool:
        """Returns whether all other ranks have been heard after a moment, or have ended well."""
        others = [rank for rank in range(self._ranks.size) if rank != self._ranks.rank and self._beats.active]
        ended = [rank for rank in others if self._beats.state(rank) == "ended"]
        age = time.monotonic() - moment
        return all(rank in ended or self._beats.unheard(rank) < age for rank in others if rank not in self._fallen)

    def _report(self) -> None:
        """Prints which ranks have fallen silent, and that the others go on."""
        for rank in sorted(self._unreported):
            if self.speaks() and not self.leaving:
                say(f"{self._beats.name(rank)} {self._beats.reason(rank)}; the others go on without it")
        self._unreported.clear()

    def _end(self) -> NoReturn:
        """Ends the process, whose main thread has not ended in time."""
        if self.speaks() and not self.leaving:
            say(self._beats.faults())
        self._beats.end("ended")
        self.end_stopped()
        os._exit(1)

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        """Handles SIGTERM and SIGHUP in the main thread: as Ctrl-C once it is time, and before that not at all."""
        if self._interrupted is None:
            return
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, frame)
        elif self._ignores_ctrl_c:  # started in the background; otherwise Ctrl-C has come, and is being obeyed
            self._ignores_ctrl_c = False
            raise KeyboardInterrupt


def say(text: str) -> None:
    """Prints a line for all ranks, past the redirection of this rank's streams."""
    with contextlib.suppress(OSError):  # the launcher has ended
        print(text, file=sys.__stderr__, flush=True)


def _parent(pid: int) -> int:
    """Returns the parent of a process; 0 where there is none, or where the system does not tell."""
    try:
        if Path("/proc/self/stat").exists():
            return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        listing = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return int(listing.stdout.strip() or 0)
    except OSError:
        return 0
