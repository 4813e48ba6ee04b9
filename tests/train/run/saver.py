"""A process that starts others, which train and save in a loop until they are killed.

For each line on the standard input it forks a process, prints its number, waits for its end and prints an empty line.
Forking is quick because everything is imported, and safe because MLX has computed nothing before.
"""

import os
import sys
from pathlib import Path

from mlx_sd.train.run import settings_file
from tests.train.run.records import opened, train


def main(path: Path, done: Path) -> None:
    """Serves the standard input; `done` gets a line for each checkpoint that is saved."""
    for _ in sys.stdin:
        number = os.fork()
        if number == 0:
            try:
                _train(path, done)
            finally:
                os._exit(1)
        print(number, flush=True)
        os.waitpid(number, 0)
        print(flush=True)


def _train(path: Path, done: Path) -> None:
    handle = os.open(done, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with opened(path, resume=(path / settings_file.NAME).exists()) as run:
        for step in range(run.step + 1, 10**6):
            train(run, step, every=1)
            run.step = step
            os.write(handle, f"{step}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
