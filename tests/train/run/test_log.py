"""The log: a line a step, seen at once; after resuming it is the log of a run that was never interrupted."""

import errno
import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.errors import Failure, InputError
from mlx_sd.train.run.log import Log, read

LOSSES = [0.5, 0.25, 0.1234567, 0.3, 0.2, 0.9]


def _write(log, steps):
    for step in steps:
        others = {"prior": step * 0.5}
        log.write(step, loss=LOSSES[step % 6], lr=1e-4, grad_norm=2.0, seconds=0.5, others=others)


def _whole(tmp_path, steps):
    log = Log(tmp_path / "whole.jsonl")
    _write(log, range(1, steps + 1))
    log.close()
    return (tmp_path / "whole.jsonl").read_bytes()


def test_a_line_is_seen_as_soon_as_it_is_written(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    for step in (1, 2, 3):
        log.write(step, loss=0.5, lr=1e-4, grad_norm=1.5, seconds=0.25, validation=0.75 if step == 2 else None)
        assert path.read_bytes().count(b"\n") == step and read(path)[-1]["step"] == step
    log.close()
    assert path.read_text().splitlines()[:2] == [
        '{"step": 1, "loss": 0.5, "lr": 0.0001, "grad_norm": 1.5, "seconds": 0.25}',
        '{"step": 2, "loss": 0.5, "lr": 0.0001, "grad_norm": 1.5, "seconds": 0.25, "validation": 0.75}',
    ]


@given(length=st.integers(0, 6), step=st.integers(0, 6), torn=st.integers(0, 80))
def test_a_resumed_log_equals_that_of_an_uninterrupted_run(tmp_path, length, step, torn):
    """Wherever the run was killed, in the middle of a line too, and whatever step it goes on from."""
    whole = _whole(tmp_path, 6)
    lines = whole.splitlines(keepends=True)
    step = min(step, length)
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(lines[:length]) + b"".join(lines[length:])[:torn])
    log = Log(path, step)
    assert log.step == (step or -1)
    _write(log, range(step + 1, 7))
    log.close()
    assert path.read_bytes() == whole


def test_lines_that_are_none_are_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    bad = [b"\0\0\0\0\n", b"[1]\n", b"{}\n", b'{"step": "1"}\n', b'{"step": true}\n', b"\xff\n", b"[" * 9999 + b"\n"]
    path.write_bytes(b'{"step": 1}\n' + b"".join(bad) + b'{"step": 2}\n{"step": 3')
    assert read(path) == [{"step": 1}, {"step": 2}]
    Log(path, 2).close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_line_without_its_end_is_none_so_that_the_next_does_not_stick_to_it(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    assert read(path) == [{"step": 1}]
    log = Log(path, 2)
    log.write(2, loss=0.5)
    log.close()
    assert read(path) == [{"step": 1}, {"step": 2, "loss": 0.5}]


def test_a_new_run_begins_with_an_empty_log_and_may_have_a_step_0(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read(path) == []
    log = Log(path)
    assert path.read_bytes() == b""
    log.write(0, validation=1.0)
    log.close()
    log = Log(path)
    assert read(path) == [{"step": 0, "validation": 1.0}] and log.step == 0
    log.close()


@given(losses=st.lists(st.floats(), min_size=1, max_size=4))
def test_every_number_is_read_as_it_was_and_lines_are_strict_json(tmp_path, losses):
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    log = Log(path)
    for step, loss in enumerate(losses, 1):
        log.write(step, loss=loss)
    log.close()

    def refuse(word):
        raise AssertionError(word)

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    assert [entry["loss"] for entry in read(path)] == [loss if math.isfinite(loss) else None for loss in losses]


def test_steps_only_go_up_and_names_are_used_once(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write(2, loss=1.0)
    for step in (1, 2):
        with pytest.raises(ValueError, match=f"step {step} comes after step 2"):
            log.write(step, loss=1.0)
    for name in ("step", "loss", "validation"):
        with pytest.raises(ValueError, match=f"'{name}' is a name of every log"):
            log.write(3, loss=1.0, others={name: 1.0})
    log.close()


@pytest.mark.parametrize("room", [0, 10])
def test_a_full_disk_is_one_line_and_leaves_no_part_of_it(tmp_path, monkeypatch, room):
    """Also where the disk takes the first ten bytes of the line."""
    path = tmp_path / "log.jsonl"
    log = Log(path)
    _write(log, [1, 2])
    before, write, left = path.read_bytes(), os.write, [room]

    def nearly_full(handle, data):
        size, left[0] = left[0], 0
        if not size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data[:size])

    monkeypatch.setattr(os, "write", nearly_full)
    with pytest.raises(Failure) as error:
        _write(log, [3])
    monkeypatch.undo()
    assert str(error.value).startswith(f"{path} cannot be written: No space left on device; free some space")
    assert path.read_bytes() == before
    _write(log, [3])  # when there is space again
    log.close()
    assert [entry["step"] for entry in read(path)] == [1, 2, 3]


def test_a_log_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(InputError, match=r"log.jsonl cannot be read: Is a directory"):
        read(tmp_path / "log.jsonl")
