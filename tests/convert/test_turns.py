"""Several processes that need one checkpoint at the same time convert it once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_sd.core.files import turn

ROOT = Path(__file__).parent.parent.parent
PROCESS = """
import os, sys, time
from convert.writers import model_folder
write = model_folder.write_model_folder
def slowly(*arguments, **options):
    with open("conversions.txt", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(float(sys.argv[2]))
    return write(*arguments, **options)
model_folder.write_model_folder = slowly
from mlx_sd import resolve
print(resolve.model_folder(sys.argv[1]))
"""


@pytest.mark.slow
def test_one_of_two_processes_converts_and_the_other_waits(original, tmp_path):
    environment = {**os.environ, "MLX_SD_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROCESS, str(original), "3"]
    pair = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    folders = {process.communicate(timeout=120)[0] for process in pair}
    assert [process.returncode for process in pair] == [0, 0] and len(folders) == 1
    assert len((tmp_path / "conversions.txt").read_text().splitlines()) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")] == []
    assert Path(folders.pop().strip(), "model.json").is_file()


@pytest.mark.slow
def test_a_killed_conversion_lets_the_next_process_convert(original, tmp_path):
    environment = {**os.environ, "MLX_SD_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROCESS, str(original)]
    first = subprocess.Popen([*command, "600"], cwd=tmp_path, env=environment)
    while not (tmp_path / "conversions.txt").exists():
        assert first.poll() is None
    second = subprocess.Popen([*command, "0"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    first.kill()
    first.wait()
    assert Path(second.communicate(timeout=120)[0].strip(), "model.json").is_file()


def test_a_turn_leaves_nothing_and_works_where_nothing_can_be_written(tmp_path):
    with turn(tmp_path / "a" / "model"):
        assert [path.name for path in (tmp_path / "a").iterdir()] == [".model.lock"]
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "file").touch()
    with turn(tmp_path / "file" / "model"):
        pass
