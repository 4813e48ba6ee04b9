"""MLX's launcher leaves the cores to its ranks: each lowers the priority of the launcher that started it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Stands for the launcher: it starts a rank, from a second thread as MLX's does, and says the priorities of its threads.
_PARENT = """
import os, subprocess, sys, threading
from pathlib import Path
rank = "from mlx_sd.ranks import launcher; print(launcher.calm())"
def start():
    calmed.append(subprocess.run([sys.executable, "-c", rank], stdout=subprocess.PIPE, text=True).stdout.strip())
    there.set()
    leave.wait()
calmed, there, leave = [], threading.Event(), threading.Event()
thread = threading.Thread(target=start)
thread.start()
there.wait()
threads = os.listdir("/proc/self/task") if Path("/proc/self/task").exists() else [os.getpid()]
print(calmed[0], sorted({os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in threads}))
leave.set()
"""


@pytest.mark.parametrize(("name", "calmed"), [("mlx.launch", True), ("another", False)])
def test_a_rank_lowers_the_priority_of_all_threads_of_its_launcher_alone(tmp_path, name, calmed):
    program = tmp_path / name
    program.write_text(_PARENT, encoding="utf-8")
    run = [sys.executable, str(program)]
    done = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert done.stdout.split(maxsplit=1) == [str(calmed), f"[{19 if calmed else before}]\n"]
