"""The process that installs one model: downloaded from the hub, converted into the cache. Started by `installation`.

A process of its own, because the conversion computes with MLX, whose streams belong to the thread of the server's
worker, and because it can be ended at any moment. Its standard input is a pipe of the server: when that ends, so does
this process. Each line of its standard output is a JSON object: {"stage", "done", "total"} in bytes, and at the end
{"installed": folder's name} or {"error": line}.
"""

import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from ...core import terminal
from ...core.errors import Failure, InputError
from ...core.places import cache_folder, free_space, hub_folder

_STAGES = {"download": "downloading", "convert": "converting"}
_INTERVAL = 0.1  # seconds between two lines about the same stage
_PATIENCE = 4.0  # seconds that tidying up may take


class _Progress:
    """Writes how far the work is, and ends it when the server says so or is gone."""

    def __init__(self) -> None:
        self._stage, self._written = "", 0.0
        self._ending = threading.Event()
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what libraries print

    def tell(self, title: str, done: int, total: int) -> None:
        """Writes a line; at the begin of a download it checks that the converted model will have room too."""
        stage, now = _STAGES.get(title, title), time.monotonic()
        if stage == self._stage and done < total and now - self._written < _INTERVAL:
            return
        if stage == "downloading" and self._stage != stage:
            _check_space(total)
        self._stage, self._written = stage, now
        self.write({"stage": stage, "done": done, "total": total})

    def write(self, values: dict[str, Any]) -> None:
        """Writes one answer, a line of JSON, for the server to read."""
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()

    def end(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Ends the process: a conversion removes what it has written, a download keeps it to be gone on with."""
        if self._stage != "converting":
            with suppress(OSError):  # the empty folder that this process is in
                Path.cwd().rmdir()
            os._exit(1)
        if not self._ending.is_set():
            self._ending.set()
            threading.Thread(target=self._insist, daemon=True).start()
            raise KeyboardInterrupt

    def end_with_server(self) -> None:
        """Ends the process as soon as the server has ended, however that did."""

        def wait() -> None:
            """Waits for the end of the pipe, into which nothing is written."""
            os.read(0, 1)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait, daemon=True).start()

    def _insist(self) -> None:
        time.sleep(_PATIENCE)
        os._exit(1)


def main(repository: str) -> int:
    """Installs a model by its hub id; returns the exit code."""
    progress = _Progress()
    signal.signal(signal.SIGTERM, progress.end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the server's, which ends this process
    progress.end_with_server()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # an empty one: a hub id is never taken for a path that exists
        try:
            warnings.simplefilter("ignore")
            with terminal.observed(progress.tell):
                from ...resolve import model_folder

                progress.write({"installed": model_folder(repository).name})
        except (InputError, Failure) as error:
            progress.write({"error": _line(error, repository)})
            return 1
        except KeyboardInterrupt:
            return 1
        except MemoryError:
            progress.write({"error": f"there is not enough memory to convert {repository}; close other programs"})
            return 1
        finally:
            os.chdir("/")
    return 0


def _line(error: Exception, repository: str) -> str:
    """Returns an error as one line for clients, who see no paths of the server."""
    text = " ".join(str(error).split())
    text = re.sub(rf"{re.escape(str(hub_folder()))}/\S*?/snapshots/[0-9a-f]+", repository, text)
    return text.replace(str(hub_folder()), "the hub's cache").replace(str(cache_folder()), "the cache of models")


def _check_space(size: int) -> None:
    """Raises Failure where a model that is as large as its download has no room in the cache."""
    free = free_space(cache_folder())
    if size > free:
        raise Failure(
            f"the converted model takes about {terminal.size(size)}, and only {terminal.size(free)} are free in the "
            "cache; free some space, or set MLX_SD_CACHE to a folder elsewhere"
        )


if __name__ == "__main__":
    sys.path[:] = [str(Path(place).absolute()) for place in sys.path if place]
    sys.exit(main(sys.argv[1]))
