"""Code run in a process of its own, so that its peak memory can be read."""

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from mlx_sd.core.errors import Failure


class Stage(NamedTuple):
    """What a run took: wall seconds, the start of Python among them; peak resident bytes; and what it printed last."""

    seconds: float
    peak_bytes: int
    said: str


def run(code: str) -> Stage:
    """Runs Python code; Failure with the last line of its errors where it fails."""
    whole = f"import mlx_sd\n{code}\nfrom bench import process; print('\\npeak', process.peak())"
    clock = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", whole], check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - clock
    if done.returncode:
        errors = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failure(f"a measured process failed: {errors[-1]}")
    *said, peak = [line for line in done.stdout.splitlines() if line]
    return Stage(round(seconds, 2), int(peak.removeprefix("peak ")), said[-1] if said else "")


def peak() -> int:
    """The most resident bytes that this process has had."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, getrusage begins with the peak of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
