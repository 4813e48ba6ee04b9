"""A conversion that is interrupted leaves nothing wrong: full disks, closed folders, races, kills."""

import errno
import itertools
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from convert import __main__ as command
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import atomic_folder
from tests.support import families


def convert(source, out):
    return command.main(["--model", str(source), "--out", str(out)])


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def nothing_left(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir())


def test_too_little_space_is_seen_before_anything_is_written(original, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr("convert.writers.model_folder.write_tensors", None)
    assert convert(original, tmp_path / "out") == 1
    assert "and only 1 kB are free there" in capsys.readouterr().err
    assert nothing_left(tmp_path) == []


def test_a_disk_that_is_full_half_way_is_one_line_and_nothing_left(original, tmp_path, capsys):
    """A real limit of the system's: files stop growing at 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code = convert(original, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capsys.readouterr().err
    assert code == 1 and "File too large; nothing is left" in err and err.count("\n") == 1
    assert nothing_left(tmp_path) == []


def test_no_space_on_the_last_file_is_one_line_and_nothing_left(original, tmp_path, monkeypatch, capsys):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    assert convert(original, tmp_path / "out") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert nothing_left(tmp_path) == []


def test_no_permission_is_one_line(original, tmp_path, capsys):
    assert convert(original, "/dev/null/out") == 2
    assert "/dev/null/out cannot be written" in capsys.readouterr().err
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        assert convert(original, tmp_path / "closed" / "out") == 2
        assert "Permission denied" in capsys.readouterr().err


def test_of_two_conversions_to_one_place_the_first_wins(tmp_path):
    out = tmp_path / "out"
    with (
        pytest.raises(InputError, match="another conversion was first"),
        atomic_folder(out) as second,
    ):
        with atomic_folder(out) as first:
            (first / "whose").write_text("first")
        (second / "whose").write_text("second")
    assert bytes_of(tmp_path) == {"out/whose": b"first"}


def test_what_a_living_process_writes_is_not_swept_and_what_a_dead_one_left_is(tmp_path):
    out = tmp_path / "out"
    dead, other = tmp_path / ".out.abcdefgh.part", tmp_path / ".out.notes"
    for left in (dead, other):
        left.mkdir()
        (left / "unet.safetensors").touch()
    with atomic_folder(out) as first:
        with pytest.raises(ZeroDivisionError), atomic_folder(out):
            raise ZeroDivisionError
        assert first.is_dir() and not dead.exists() and other.exists()
    assert out.is_dir()


def test_no_conversion_sweeps_another_away(tmp_path):
    """Many that begin and fail at once, at one place: each finds its own folder until its end."""

    def work():
        for _ in range(100):
            with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out") as folder:
                (folder / "file").touch()
                raise ZeroDivisionError

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert nothing_left(tmp_path) == []


_CHANGES = ("os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "shutil.copyfile")


def _convert_in_child(source, out, ready, last):
    """Killed, where `last` is a number, just before so many changes to the disk."""
    changes = itertools.count(1)

    def watch(event, arguments):
        change = (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)) or event in _CHANGES
        if change and next(changes) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    if last:
        sys.addaudithook(watch)
    ready.send(None)
    sys.exit(command.main(["--model", source, "--out", out]))


def begin(source, out, last=None):
    """A conversion in another process, at the moment it begins."""
    # A server that has imported everything forks at once; not on macOS, where Metal does not survive a fork.
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(["convert.__main__"])
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_convert_in_child, args=(str(source), str(out), send, last))
    child.start()
    receive.recv()
    return child


def check_what_is_left(out, wanted):
    """Nothing, or the right thing; says whether there is something."""
    if out.exists():
        assert {n: b for n, b in bytes_of(out).items() if n != "model.json"} == wanted
        assert command.main(["--verify", str(out)]) == 0
        shutil.rmtree(out)
        return True
    return False


@pytest.mark.slow
def test_two_processes_at_once_leave_one_whole_folder(original, tmp_path):
    pair = [begin(original, tmp_path / "out") for _ in range(2)]
    for child in pair:
        child.join()
    assert sorted(child.exitcode for child in pair) == [0, 2]
    assert command.main(["--verify", str(tmp_path / "out")]) == 0 and nothing_left(tmp_path) == ["out"]


def killed_at_random_moments(source, home, wanted, moments, seed):
    """How many of so many killed conversions were cut short; after all of them one succeeds and cleans up."""
    rng, longest, cut = random.Random(seed), 0.0, 0
    for moment in range(-1, moments):  # the first is not killed and tells how long one takes
        child, begun = begin(source, home / "out"), time.perf_counter()
        if moment >= 0:
            time.sleep(rng.uniform(0, longest))
            child.kill()
        child.join()
        longest = longest or time.perf_counter() - begun
        cut += not check_what_is_left(home / "out", wanted)
    assert convert(source, home / "out") == 0
    assert nothing_left(home) == ["out"]
    assert check_what_is_left(home / "out", wanted)
    return cut


@pytest.mark.slow
def test_killed_before_any_change_to_the_disk_it_leaves_nothing_that_is_wrong(original, model, tmp_path):
    """And the next run succeeds, and sweeps away what the killed one left."""
    wanted = {n: b for n, b in bytes_of(model).items() if n != "model.json"}
    (tmp_path / "home").mkdir()
    for last in itertools.count(1):
        child = begin(original, tmp_path / "home" / "out", last)
        child.join()
        there = check_what_is_left(tmp_path / "home" / "out", wanted)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert there and last > 12 and nothing_left(tmp_path / "home") == []


@pytest.mark.proof
def test_killed_at_any_moment_it_leaves_nothing_that_loads(proof, shapes, tmp_path):
    original = families.write_folder("sdxl", shapes["sdxl"], tmp_path / "original")
    assert command.main(["--model", str(original), "--out", str(tmp_path / "model")]) == 0
    complete = {name: content for name, content in bytes_of(tmp_path / "model").items() if name != "model.json"}
    (tmp_path / "home").mkdir()
    kills = proof.count(200)
    cut = killed_at_random_moments(original, tmp_path / "home", complete, moments=kills, seed=1)
    assert cut > kills / 2  # most of them half-way
    proof.record(kills=kills, cut_short=cut)
