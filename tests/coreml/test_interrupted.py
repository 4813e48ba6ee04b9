"""An export that ends before its time, however it does: nothing of it loads, no process stays, the user's files do."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coreml import asset_checks, export, stock
from coreml.coreai import runtime
from coreml.coreai.asset_files import SUFFIX
from mlx_sd.core.errors import Failure
from tests.support.exports import CORE_AI, SMALL

ROOT = Path(__file__).parent.parent.parent
VARIABLES = {"PYTHONPATH": str(ROOT)}


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def wait_until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


linux = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


@linux
def test_a_child_ends_with_its_parent(tmp_path):
    """Even where the parent has no time to say so; and the child removes what it has in a folder for it."""
    (tmp_path / "scratch").mkdir()
    code = "import sys, time; from coreml.coreai.child import end_with; end_with(int(sys.argv[1]), sys.argv[2])"
    parent_code = (
        "import os, subprocess, sys; parent, alive = os.pipe();"
        f"p = subprocess.Popen([sys.executable, '-c', {code + '; print(1, flush=True); time.sleep(60)'!r}, str(parent),"
        " sys.argv[1]], pass_fds=(parent,), stdout=subprocess.PIPE); p.stdout.readline();"
        "print(p.pid, flush=True); p.wait()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code, tmp_path / "scratch"],
        stdout=subprocess.PIPE,
        env=os.environ | VARIABLES,
        cwd=ROOT,
    )
    with parent:
        child = int(parent.stdout.readline())
        assert running(child)
        parent.kill()
        parent.wait()
        wait_until(lambda: not running(child))
    assert list(tmp_path.iterdir()) == []


FIRST = {"info.json": "1", "metadata.json": "1", "A.aimodel/x": "1", "Old.aimodel/x": "1", "tokenizer/vocab.json": "1"}
SECOND = {"info.json": "2", "metadata.json": "2", "A.aimodel/x": "2", "B.aimodel/x": "2", "tokenizer/vocab.json": "2"}
MINE = {"mine.txt": "m", "mine.aimodel/x": "m", "tokenizer/mine.txt": "m"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


class Killed(BaseException):
    """What ends the process, in the place of SIGKILL."""


def test_killed_before_any_change_of_the_folder_it_leaves_a_whole_export_or_none(tmp_path, monkeypatch):
    monkeypatch.setattr(
        export, "_packages_before", lambda out: ["A.aimodel", "Old.aimodel", "tokenizer/vocab.json", *list(FIRST)[:2]]
    )
    replace, remove = Path.replace, export._remove
    for last in range(1, 100):
        left = [last]

        def change(left=left):
            left[0] -= 1
            if not left[0]:
                raise Killed

        monkeypatch.setattr(Path, "replace", lambda a, b, change=change: (change(), replace(a, b)))
        monkeypatch.setattr(export, "_remove", lambda path, change=change: (change(), remove(path)))
        out = tmp_path / str(last) / "out"
        write(out, FIRST | MINE)
        try:
            with export._beside(out) as home:
                write(home, SECOND)
            break
        except Killed:
            files = content(out)
        assert MINE.items() <= files.items()
        if "info.json" in files:
            assert files in (FIRST | MINE, SECOND | MINE), last
        if "metadata.json" in files:  # Apple's package reads no info.json
            assert files | {"info.json": files["metadata.json"]} in (FIRST | MINE, SECOND | MINE), last
    assert content(out) == SECOND | MINE and last > 8


def test_ctrl_c_waits_until_the_folder_is_whole(tmp_path, monkeypatch, interruptible):
    move = export._move_into

    def interrupted(home, out):
        os.kill(os.getpid(), signal.SIGINT)
        move(home, out)

    monkeypatch.setattr(export, "_move_into", interrupted)
    with pytest.raises(KeyboardInterrupt), export._beside(tmp_path / "out") as home:
        write(home, {"A.aimodel": "2", "info.json": "2"})
    assert content(tmp_path / "out") == {"A.aimodel": "2", "info.json": "2"}


def test_no_space_for_the_runtimes_own_form_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("coreai", reason="the extra coreai is not installed")
    write(tmp_path, {"X.aimodel/main.mlirb": "1234"})
    monkeypatch.setattr(runtime.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 7, 3))
    with pytest.raises(Failure, match="MB are free there; set TMPDIR"):
        runtime.Runtime(tmp_path / "X.aimodel")


# ------------------------------------------------------------------------------------------------ real processes


def begin(model: str, out: Path, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "coreml", "--model", model, "--format", "coreai", "--out", str(out), *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | VARIABLES, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def end(process: "subprocess.Popen[bytes]") -> tuple[int, str]:
    """The exit code, and what is on the standard error."""
    err = process.communicate()[1].decode()
    return process.returncode, err


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
def test_a_signal_at_any_moment_leaves_nothing_that_is_wrong(number, model, tmp_path, interruptible):
    pytest.importorskip("coreai", reason="the extra coreai is not installed")
    name, out, rng = model(SMALL).model.name, tmp_path / "home/out", random.Random(int(number))
    write(out, MINE)
    start = time.monotonic()
    assert end(begin(name, out, "--force")) == (0, "")
    longest, codes = time.monotonic() - start, set()
    for _ in range(4):
        process = begin(name, out, "--force")
        time.sleep(rng.uniform(0.3, 1) * longest)
        helpers = children(process.pid)
        process.send_signal(number)
        code, err = end(process)
        codes.add(code)
        wait_until(lambda helpers=helpers: not any(map(running, helpers)))
        assert "Traceback" not in err
        assert {name: (out / name).read_text() for name in MINE} == MINE
        if (out / "info.json").exists():
            asset_checks.content_of(out)
        else:
            assert not (out / stock.METADATA).exists()
    cut = 130 if number == signal.SIGINT else -number
    # While Python itself ends, its handlers are gone: SIGINT then kills as the others do.
    assert cut in codes and codes <= {0, cut, -number}
    assert end(begin(name, out, "--force")) == (0, "")
    asset_checks.content_of(out)
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@linux
@pytest.mark.slow
def test_killed_while_an_asset_runs_no_process_and_no_scratch_stay(tmp_path):
    pytest.importorskip("coreai", reason="the extra coreai is not installed")
    import numpy as np

    from tests.support import core_ai

    asset, x = tmp_path / f"X{SUFFIX}", np.zeros((1024, 1024), np.float16)  # a product of float16 takes a minute
    core_ai.write({"main": ({"x": x}, lambda e, x: e.matmul(x=x, y=x))}, asset)
    code = (
        "import sys; import mlx_sd, numpy as np; from pathlib import Path; from coreml.coreai.runtime import Runtime;"
        "r = Runtime(Path(sys.argv[1])); print(r._process.pid, r._scratch.name, flush=True);"
        "r.run('main', {'x': np.zeros((1024, 1024), np.float16)}, seconds=100)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, asset], stdout=subprocess.PIPE, env=os.environ | VARIABLES, cwd=ROOT
    )
    with parent:
        process, scratch = parent.stdout.readline().split()
        time.sleep(1)
        assert running(int(process)) and Path(scratch.decode()).exists()
        parent.kill()
    wait_until(lambda: not running(int(process)))
    assert not Path(scratch.decode()).exists()


def on_a_small_disk(size: str, folder: Path, script: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Runs a script of Python in a namespace where `folder` is a disk of that size; skips where none can be made."""
    mount = f'mount -t tmpfs -o size={size} tmpfs "{folder}" || exit 99; exec "$@"; '
    folder.mkdir()
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", script, *words]
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare")
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | VARIABLES | {"TMPDIR": str(folder)}, capture_output=True, text=True
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("no disk can be mounted here")
    return done


@linux
@pytest.mark.slow
@pytest.mark.parametrize("size", ("64k", "2m"))
def test_a_disk_that_is_really_full_is_one_line(size, model, tmp_path):
    pytest.importorskip("coreai", reason="the extra coreai is not installed")
    script = (
        "import sys; from pathlib import Path; import coreml.export as e; from coreml.__main__ import main;"
        "e._check_space = lambda *_: None; out = Path(sys.argv[2]);"
        "code = main(['--model', sys.argv[1], '--format', 'coreai', '--out', str(out)]);"
        "sys.exit(code if [*out.parent.iterdir()] == [] else 77)"
    )
    done = on_a_small_disk(size, tmp_path / "disk", script, model(SMALL).model.name, str(tmp_path / "disk/out"))
    assert done.returncode == 1
    assert done.stderr == f"coreml: {tmp_path / 'disk/out'}: no space is left; nothing was written\n"


@linux
@pytest.mark.slow
@pytest.mark.parametrize("share", (0.5, 1.05))
def test_a_disk_without_space_for_the_runtimes_own_form_is_one_line(share, exported, model, tmp_path):
    """Also where only the whole of it is too large, and the runtime's process ends by SIGBUS."""
    pytest.importorskip("coreai", reason="the extra coreai is not installed")
    asset = exported(SMALL, dtype="float32", attention="fused", **CORE_AI) / f"Unet{SUFFIX}"
    size = int(share * (asset / "main.mlirb").stat().st_size)
    script = "import sys; from coreml.__main__ import main; sys.exit(main(['verify', *sys.argv[1:]]))"
    done = on_a_small_disk(str(size), tmp_path / "disk", script, str(asset), "--model", model(SMALL).model.name)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "set TMPDIR to another folder" in done.stderr
