"""Code and commands run in a process of their own, so that their peak memory can be read."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from mlx_sd.core.errors import Failure

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes


class Usage(NamedTuple):
    """Wall seconds of a process, Python's start included, its peak resident bytes, and its last line of output."""

    seconds: float
    peak_bytes: int
    output: str


def run(code: str) -> Usage:
    """Runs Python code; Failure with the last line of its errors if it fails."""
    script = f"import mlx_sd\n{code}\nfrom bench import process; print('\\npeak', process.peak())"
    clock = time.perf_counter()
    process = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - clock
    if process.returncode:
        errors = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise Failure(f"a measured process failed: {errors[-1]}")
    *output, peak = [line for line in process.stdout.splitlines() if line]
    return Usage(round(seconds, 2), int(peak.removeprefix("peak ")), output[-1] if output else "")


def run_command(*command: str) -> dict[str, float]:
    """Runs a command; returns its wall and processor seconds and peak resident bytes. Failure if it fails.

    The peak begins at that of this process, as Linux has it; a command that is itself Python soon exceeds it.
    """
    clock = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise Failure(f"{' '.join(command)} failed")
    seconds, processor = time.perf_counter() - clock, usage.ru_utime + usage.ru_stime
    peak_bytes = usage.ru_maxrss * _MAXRSS_UNIT
    return {"seconds": round(seconds, 2), "processor_seconds": round(processor, 2), "peak_bytes": peak_bytes}


def peak() -> int:
    """Returns the peak resident bytes of this process."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, getrusage begins with the peak of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def children_peak() -> int:
    """Returns the peak resident bytes of the largest process that this one has started and waited for."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _MAXRSS_UNIT
