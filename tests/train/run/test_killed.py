"""A training that is killed at any moment leaves a whole checkpoint, a log that fits it, and a free lock."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mlx_sd.train.run import log
from tests.train.run.records import opened, same, state

QUICK, MANY = 12, 150


@pytest.mark.parametrize("kills", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_of_saving_loses_nothing_that_was_saved(tmp_path, kills):
    folder, done = tmp_path / "run", tmp_path / "done"
    command = [sys.executable, "-m", "tests.train.run.saver", str(folder), str(done)]
    moment, saved = random.Random(kills), 0
    done.touch()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        for _ in range(kills):
            print(file=server.stdin, flush=True)
            number = int(server.stdout.readline())
            _wait(lambda: _last(done) > saved)  # noqa: B023 - it is called before the next round
            time.sleep(moment.uniform(0, 0.04))
            os.kill(number, signal.SIGKILL)
            server.stdout.readline()
            with opened(folder, resume=True) as run:  # warnings are errors: no checkpoint is damaged, the lock is free
                step, arrays, _ = run.latest()
                assert step in (_last(done), _last(done) + 1) and same(arrays, state(step))
                assert [line["step"] for line in log.read(run.log.path)] == list(range(1, step + 1))
                names = [f"step-{s:06d}" for s in (step - 1, step) if s]
                assert sorted(p.name for p in (folder / "checkpoints").iterdir())[-len(names) :] == names
                assert not list(folder.rglob(".*"))
            saved = step
        server.stdin.close()


def _last(done):
    """The last step that a process has saved and said so."""
    return int((done.read_text().split("\n")[-2:-1] or ["0"])[0])


def _wait(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
