"""The folder of a run: one process at a time, gone on with exactly, refused in one line where something differs."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import is_folder
from mlx_sd.train.run import durable, log
from mlx_sd.train.run.folder import RunFolder
from tests.train.run.records import Settings, opened, same, state, train


def _without_seconds(path):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in log.read(path)]


def _content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _refused(run, match):
    """The run is refused in one line, and every file is as it was."""
    folder = run.path
    before = _content(folder) if is_folder(folder) else None
    with pytest.raises(InputError, match=match) as error, run:
        pass
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert (_content(folder) if is_folder(folder) else None) == before


def test_a_new_run_begins_at_step_0_without_a_checkpoint(tmp_path):
    with opened(tmp_path / "a" / "run") as run:
        assert run.step == 0 and run.latest() is None
        train(run, 4)
        assert run.latest().step == 4  # a checkpoint that was just saved can be read at once
    names = ["checkpoints", "log.jsonl", "run.lock", "samples", "settings.json"]
    assert sorted(p.name for p in run.path.iterdir()) == names


@pytest.mark.parametrize("last", [3, 4, 7])
def test_a_resumed_run_has_the_log_and_the_state_of_an_uninterrupted_one(tmp_path, last):
    with opened(tmp_path / "whole") as run:
        train(run, 9)
    with opened(tmp_path / "parts") as run:
        train(run, last)
    with opened(tmp_path / "parts", resume=True) as run:
        step, arrays, record = run.latest()
        assert run.step == step == last - last % 2
        assert same(arrays, state(step)) and record == {"epoch": step // 4}
        train(run, 9)
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    assert _without_seconds(parts / "log.jsonl") == _without_seconds(whole / "log.jsonl")
    checkpoints = [_content(p / "checkpoints") for p in (parts, whole)]
    assert checkpoints[0] == checkpoints[1] and len(checkpoints[0]) == 6


def test_a_run_without_a_checkpoint_is_resumed_at_its_beginning(tmp_path):
    with opened(tmp_path) as run:
        train(run, 1)
    with opened(tmp_path, resume=True) as run:
        assert run.step == 0 and run.latest() is None and log.read(run.log.path) == []
        train(run, 2)


def test_ctrl_c_while_saving_counts_when_the_checkpoint_is_whole(tmp_path, monkeypatch, interruptible):
    flush, times = durable.flush, []

    def interrupted(handle):
        times.append(os.kill(os.getpid(), signal.SIGINT))
        flush(handle)

    with opened(tmp_path) as run:
        run.log.flush()
        monkeypatch.setattr(run.log, "flush", lambda: None)
        monkeypatch.setattr(durable, "flush", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.save(1, state(1))
        monkeypatch.undo()
        assert len(times) == 3 and run.latest().step == 1


def test_resuming_where_there_is_nothing_and_beginning_where_there_is_a_run_are_refused(tmp_path):
    _refused(opened(tmp_path / "new", resume=True), "holds no run to go on with; leave out --resume")
    assert not (tmp_path / "new").exists()
    with opened(tmp_path / "run") as run:
        train(run, 2)
    _refused(opened(tmp_path / "run"), "holds a run; go on with --resume, or choose another folder")


def test_a_folder_with_other_files_and_a_file_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dog.png").write_bytes(b"x")
    _refused(opened(tmp_path / "photos"), r"holds 'dog.png' and no run; choose an empty folder")
    _refused(opened(tmp_path / "photos", resume=True), "holds no run")
    _refused(opened(tmp_path / "photos" / "dog.png"), "is not a folder")
    _refused(opened(Path("/dev/null/run")), "/dev/null.* cannot be written: Not a directory")
    _refused(opened(tmp_path / ("a" * 300)), "cannot be written: File name too long")


def test_an_empty_folder_and_one_that_a_killed_process_has_only_locked_are_taken(tmp_path):
    (tmp_path / "run.lock").write_text("123\n")
    (tmp_path / ".settings.json.abcd1234").write_text("{")
    with opened(tmp_path) as run:
        train(run, 1)
    assert not list(tmp_path.glob(".*"))


def test_a_second_process_is_refused_by_the_number_of_the_first(tmp_path):
    code = (
        "import sys; from tests.train.run.records import opened\n"
        "with opened(sys.argv[1]) as run:\n    print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "open\n"
        _refused(opened(tmp_path, resume=True), f"is in use by process {first.pid}; stop that training or wait")
        first.kill()
        first.wait()
    assert (tmp_path / "run.lock").read_text() == f"{first.pid}\n"
    with opened(tmp_path, resume=True):  # the lock of a dead process is none
        assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"
        _refused(opened(tmp_path, resume=True), "is in use by this process")
    assert (tmp_path / "run.lock").read_text() == ""


def test_the_lock_is_free_after_an_error_in_the_block_and_at_its_begin(tmp_path):
    with pytest.raises(ZeroDivisionError), opened(tmp_path):
        print(1 / 0)
    _refused(opened(tmp_path, resume=True, rank=8), "was begun with rank 4, not 8")
    with opened(tmp_path, resume=True):
        pass


def test_settings_that_changed_are_refused_and_steps_may_grow(tmp_path):
    with opened(tmp_path) as run:
        train(run, 4)
    _refused(opened(tmp_path, resume=True, rank=8, lr=1.0), r"with rank 4, not 8, lr 0.0001, not 1.0; give the same")
    _refused(opened(tmp_path, resume=True, steps=99), r"steps 100, not 99 \(it may grow\)")
    with opened(tmp_path, resume=True, steps=200, sample_every=1) as run:
        assert run.step == 4
    _refused(opened(tmp_path, resume=True, steps=100, sample_every=1), "steps 200, not 100")


def test_a_damaged_newest_checkpoint_is_one_warning_and_the_log_goes_back_too(tmp_path):
    with opened(tmp_path) as run:
        train(run, 7)
    whole = _without_seconds(tmp_path / "log.jsonl")
    (tmp_path / "checkpoints" / "step-000006" / "weights.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="step-000006.*the run goes on from step 4") as warned:
        run = opened(tmp_path, resume=True).__enter__()
    assert len(warned) == 1
    assert run.latest().step == 4 and log.read(run.log.path)[-1]["step"] == 4
    train(run, 7)
    run.__exit__(None, None, None)
    assert _without_seconds(tmp_path / "log.jsonl") == whole
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000004", "step-000006"]


def test_where_all_checkpoints_are_damaged_the_run_is_refused_and_nothing_changes(tmp_path):
    with opened(tmp_path) as run:
        train(run, 4)
    for manifest in tmp_path.glob("checkpoints/*/manifest.json"):
        manifest.write_text("{}")
    _refused(
        opened(tmp_path, resume=True, steps=200), "checkpoints holds no whole checkpoint: .*step-000004.*step-000002"
    )
    shutil.rmtree(tmp_path / "checkpoints" / "step-000004")
    _refused(opened(tmp_path, resume=True), "holds no whole checkpoint")


def test_tensorboard_that_is_missing_is_one_line_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"^tensorboardX is missing; pip install 'mlx-sd\[tensorboard\]'$"):
        RunFolder(tmp_path / "run", Settings(), tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_a_plot_that_cannot_be_drawn_is_one_warning_and_the_run_goes_on(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with opened(tmp_path) as run:
        with pytest.warns(UserWarning, match=r"loss.png is not drawn: matplotlib is missing; pip install") as warned:
            for _ in range(3):
                assert run.plot() is None
        assert len(warned) == 1
        train(run, 2)
    assert not (tmp_path / "loss.png").exists()
