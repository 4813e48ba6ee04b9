"""MLX's ring as the system sees it: the addresses of its ranks, and its connections."""

import contextlib
import json
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

Address = tuple[str, int]

_OPEN_FILES = Path("/dev/fd")


def addresses(size: int) -> list[list[Address]]:
    """Returns those of each rank, which MLX's launcher lists in a file; [] without a file of so many ranks."""
    try:
        listed = json.loads(Path(os.environ.get("MLX_HOSTFILE", "")).read_text(encoding="utf-8"))
        ranks = [[_address(text) for text in ([rank] if isinstance(rank, str) else rank)] for rank in listed]
    except (OSError, ValueError, TypeError, AttributeError):
        return []
    return ranks if len(ranks) == size and all(ranks) else []


def break_off(ranks: Sequence[Sequence[Address]]) -> int:
    """Shuts down the connections of this process with other ranks, and returns how many there were.

    ranks: addresses of each. What MLX waits for in any thread then fails, as where another rank has ended; otherwise
    it waits for ever for a rank that is stopped or cut off. MLX has no function for that.
    """
    places = {address for listed in ranks for address in listed}
    count = 0
    for number in [int(path.name) for path in _OPEN_FILES.iterdir()]:
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as copy:
                if copy.type == socket.SOCK_STREAM and {copy.getpeername()[:2], copy.getsockname()[:2]} & places:
                    copy.shutdown(socket.SHUT_RDWR)
                    count += 1
    return count


def _address(text: str) -> Address:
    """Returns the parts of "10.0.0.2:32323"."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
