"""A disk that is full at a checkpoint: one line, the last checkpoint stays, and nothing of the new one."""

import errno
import os
import resource
import shutil
import signal
import subprocess

import mlx_sd  # noqa: F401 - before mlx.core: it brings the BLAS

import mlx.core as mx  # isort: skip
import pytest

from mlx_sd.core.errors import Failure
from mlx_sd.train.run import durable
from tests.train.run.records import opened, same, state, train


def _names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def _fails(run, step, arrays):
    """Saving fails in one line, and the folder is as it was."""
    before = _names(run.path)
    with pytest.raises(Failure) as error:
        run.save(step, arrays)
    assert _names(run.path) == before and "\n" not in str(error.value)
    return str(error.value)


MOMENTS = ("the log", "a file of arrays", "another", "the manifest", "its name", "the name of the checkpoint")


@pytest.mark.parametrize("moment", range(len(MOMENTS)), ids=MOMENTS)
def test_no_space_at_any_moment_of_a_checkpoint_keeps_the_last_one(tmp_path, monkeypatch, moment):
    """Every time that something is flushed, the system may say that there is no space."""
    with opened(tmp_path / "run") as run:
        train(run, 3)
        times = iter(range(100))

        def full(*_):
            if next(times) >= moment:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        before = _names(run.path)
        monkeypatch.setattr(durable, "flush", full)
        monkeypatch.setattr(durable, "flush_folder", full)
        with pytest.raises(Failure, match=r"cannot be written: No space left on device; .*free some space, and go on"):
            run.save(4, state(4))
        monkeypatch.undo()
        assert next(times) == moment + 1
        if moment < len(MOMENTS) - 1:  # at the last one, the new checkpoint is whole and in its place
            assert _names(run.path) == before
        assert same(run.latest().arrays, state(2))
        run.save(4, state(4))  # when there is space again
        assert same(run.latest().arrays, state(4))
    with opened(tmp_path / "run", resume=True) as run:
        assert run.step == 4


def test_files_that_may_not_grow_are_a_full_disk(tmp_path):
    """A real limit of the system's, which MLX's own writer would not notice."""
    with opened(tmp_path / "run") as run:
        train(run, 2)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            line = _fails(run, 4, {"weights": {"large": mx.ones((100_000,))}})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert "step-000004 cannot be written: File too large; step-000002 stays" in line
    with opened(tmp_path / "run", resume=True) as run:
        assert same(run.latest().arrays, state(2))


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 256 kB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full_keeps_the_last_checkpoint(small_disk):
    with opened(small_disk / "run") as run:
        train(run, 2)
        line = _fails(run, 4, state(4, size=10_000))
        assert "step-000004 cannot be written: No space left on device; step-000002 stays" in line
        (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free))
        with pytest.raises(Failure, match=r"log.jsonl cannot be written: No space left"):
            for step in range(3, 200):  # until the last page of the log is full
                run.log.write(step, loss=1.0)
        (small_disk / "other").unlink()
        run.log.write(step, loss=1.0)
        run.save(step, state(step))
    with opened(small_disk / "run", resume=True) as run:
        assert run.step == step and same(run.latest().arrays, state(step))
