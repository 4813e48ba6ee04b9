"""Programs of several ranks that mlx.launch starts on this machine, as a terminal does it.

with launcher.Launches(tmp_path) as launches:
    launch = launches.start(2, "-m", "mlx_sd.train", "lora", ...)
    os.kill(launch.pids()[1], signal.SIGSTOP)
    ended = launch.wait(60)
    assert ended.lines == ["..."]
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("mlx.launch")
SECONDS = 240.0  # that a run may take on a machine that is busy
# Unbuffered, the launcher's threads would print each line in pieces, which mingle.
VARIABLES = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
_PORTS = range(15000, 32000)  # below those that systems give to connections
_NOT_OURS = ("[ring]", "[WARN]", "loss.png is not drawn")  # the ring's lines, the launcher's, and that of no matplotlib

needs_launcher = pytest.mark.skipif(
    not (mx.distributed.is_available("ring") and PROGRAM.exists()),
    reason="this MLX has no ring back end, or its launcher is not installed",
)
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Ended(NamedTuple):
    """What is left of a run that has ended."""

    code: int  # of the launcher: 0, whatever its ranks return; of one process, its own
    out: str  # standard output of all ranks
    lines: list[str]  # of standard error, without those of the launcher and of MLX's ring
    launcher: list[str]  # lines of the launcher: "Node with rank 1 exited with code -9"
    printed: str  # all of standard error

    def codes(self) -> dict[int, int]:
        """Returns the exit codes of ranks as the launcher names them, without those that are 0."""
        words = [line.split("rank ")[1].split("\x1b")[0].split() for line in self.launcher if "exited with" in line]
        return {int(rank): int(code) for rank, *_, code in words}


class Launch:
    """A run in a process group of its own: the launcher and its ranks, or one process without launcher."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str], printed: Path) -> None:
        self._out, self._errors = printed.with_suffix(".out"), printed.with_suffix(".err")
        with self._out.open("w") as out, self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # the launcher reads it, and spins where it is closed
                stdout=out,
                stderr=errors,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )

    def printed(self) -> str:
        """Returns standard error so far, that of all ranks and of the launcher."""
        return self._errors.read_text(encoding="utf-8", errors="replace")

    def members(self) -> list[int]:
        """Returns the living processes of the group, the launcher aside."""
        listing = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in listing.splitlines()]
        group = self.process.pid
        return [int(pid) for pid, pgid, state in rows if int(pgid) == group != int(pid) and state[0] != "Z"]

    def pids(self) -> dict[int, int]:
        """Returns the process of each living rank; the environment of a process names its rank."""
        pids = {}
        for pid in self.members():
            try:
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ranks = [int(v.partition(b"=")[2]) for v in variables if v.startswith(b"MLX_RANK=")]
            if ranks:
                pids[ranks[0]] = pid
        return pids

    def signal_rank(self, rank: int, number: signal.Signals) -> None:
        """Sends a signal to one rank."""
        os.kill(self.pids()[rank], number)

    def signal_all(self, number: signal.Signals) -> None:
        """Sends a signal to the launcher and all ranks, as a terminal does it with Ctrl-C."""
        os.killpg(self.process.pid, number)

    def running(self) -> bool:
        """Returns whether the launcher runs."""
        return self.process.poll() is None

    def wait(self, seconds: float = SECONDS) -> Ended:
        """Waits until the launcher has ended, and returns what was printed."""
        code = self.process.wait(seconds)
        printed = self.printed()
        lines = [line for line in printed.splitlines() if line.strip()]
        ours = [line for line in lines if not any(text in line for text in _NOT_OURS)]
        out = self._out.read_text(encoding="utf-8", errors="replace")
        return Ended(code, out, ours, [line for line in lines if "[WARN]" in line], printed)

    def end(self) -> None:
        """Kills what still runs, also ranks without a launcher."""
        if self.running() or self.members():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()


class Launches:
    """Starts runs in a folder, and kills at its end what still runs."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, list[Launch]()

    def __enter__(self) -> "Launches":
        return self

    def __exit__(self, *_: object) -> None:
        for launch in self._started:
            launch.end()

    def start(self, ranks: int, *words: str, environment: Mapping[str, str] | None = None) -> Launch:
        """Starts python with some words, such as "-m", "bench"; of one rank, without the launcher.

        environment: variables over those of this process.
        """
        command = [sys.executable, *words]
        if ranks > 1:
            command = [str(PROGRAM), "-n", str(ranks), "--starting-port", str(ports(ranks)), "--", *command]
        printed = self._folder / f"printed-{len(self._started)}"
        launch = Launch(command, self._folder, {**os.environ, **VARIABLES, **(environment or {})}, printed)
        self._started.append(launch)
        return launch

    def run(self, ranks: int, *words: str, environment: Mapping[str, str] | None = None) -> Ended:
        """Starts python with some words, and waits until it has ended."""
        return self.start(ranks, *words, environment=environment).wait()


def ports(count: int) -> int:
    """Returns the first of some ports in a row at which nobody listens, neither by TCP nor by UDP."""
    choose = random.SystemRandom()  # pytest-randomly and hypothesis seed the shared one
    while True:
        start = choose.randrange(_PORTS.start, _PORTS.stop - count)
        if all(map(_free, range(start, start + count))):
            return start


def _free(port: int) -> bool:
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as other:
                other.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], object], seconds: float = SECONDS) -> float:
    """Waits until a condition holds, and returns the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it takes too long"
        time.sleep(0.05)
    return time.monotonic() - start
