"""Standard streams that are closed, full, or of few characters: one line or none, and never a traceback."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_sd
from mlx_sd.cli import targets

ROOT = Path(mlx_sd.__file__).parent.parent
MLX_SD = "-c 'import sys; from mlx_sd.cli.main import main; sys.exit(main())'"
PICTURE = "-m mlx_sd.generate 'été 雪' --steps 1 --size 32x32 --seed 5"


def shell(command, folder, **environment):
    """Runs Python in a shell -> (exit code, what it wrote on both streams)."""
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} {command}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""} | environment,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_the_next_file_is_not_taken_for_a_closed_stream(tmp_path):
    code = "from mlx_sd.core.command import open_streams; open_streams(); import os; print(os.open('/', 0))"
    assert shell(f'-c "{code}" <&-', tmp_path) == (0, "3\n", "")


def test_a_closed_standard_input_is_empty(tmp_path):
    code, out, err = shell("-m mlx_sd.generate --prompts - <&-", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1) and "the standard input is empty" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.slow)])
def test_an_output_that_cannot_be_written_is_one_line(tmp_path, unbuffered):
    code, out, err = shell(f"{MLX_SD} doctor > /dev/full", tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert (code, out) == (1, "")
    assert err == "mlx-sd doctor: the output cannot be written: No space left on device\n"


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_picture_is_made_with_any_stream_closed(tmp_path, closed):
    assert shell(f"{PICTURE} {closed}", tmp_path)[0] == 0
    assert [path.name for path in tmp_path.glob("*.png")] == ["été-雪-5.png"]


@pytest.mark.slow
def test_errors_do_not_go_to_the_standard_output(tmp_path):
    assert shell(f"{PICTURE} --steps 0 2>&-", tmp_path) == (2, "", "")


@pytest.mark.slow
def test_an_output_of_few_characters_takes_names_and_json(tmp_path):
    code, out, err = shell(PICTURE, tmp_path, PYTHONIOENCODING="ascii")
    assert (code, out, err) == (0, "\\xe9t\\xe9-\\u96ea-5.png\n", "")
    code, out, _ = shell(f"{PICTURE} --json", tmp_path, PYTHONIOENCODING="ascii")
    assert code == 0 and json.loads(out)[0]["prompt"] == "été 雪"


def test_names_have_the_characters_of_the_systems_names(monkeypatch):
    assert targets.safe("Été im Tal") == "été-im-tal"
    targets.safe.cache_clear()
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert targets.safe("Été im Tal") == "t-im-tal"
    assert targets.safe("雪") == "picture"
    targets.safe.cache_clear()


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    command = f"{shlex.quote(sys.executable)} -m mlx_sd.generate x --steps 1"
    done = subprocess.run(
        ["sh", "-c", f"cd gone && rmdir ../gone && exec {command}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
        check=False,
        text=True,
    )
    assert done.returncode == 2 and "the current folder is gone" in done.stderr and "cd" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
