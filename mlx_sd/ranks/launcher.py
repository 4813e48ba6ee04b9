"""MLX's launcher, the parent of ranks on this machine: it polls them without a pause, on a core that they could use."""

import os
import subprocess
from pathlib import Path

_NAME = "mlx.launch"
_LOWEST = 19  # the priority of what runs where nothing else wants to


def calm() -> bool:
    """Gives the launcher that started this process the lowest priority; returns whether there is one here.

    For when all ranks have started: what it starts later inherits its priority.
    """
    parent = os.getppid()
    if _NAME not in _command(parent):
        return False
    for thread in _threads(parent):
        try:
            os.setpriority(os.PRIO_PROCESS, thread, _LOWEST)
        except OSError:  # it has ended, or is another user's
            return False
    return True


def _command(process: int) -> str:
    """Returns the command line of a process; an empty text where the system does not tell."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # no Linux
        pass
    try:
        words = ["ps", "-o", "command=", "-p", str(process)]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def _threads(process: int) -> list[int]:
    """Returns what has a priority of its own in a process: on Linux, each thread."""
    try:
        return [int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir()]
    except OSError:
        return [process]
