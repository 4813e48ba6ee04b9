"""A program in ssh's place, which runs the command on this machine, as on a host where something is otherwise."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

# It sources the file of the host, which may print what ssh prints and exit, or change the environment and $command.
_SSH = """#!/bin/bash
host=${@: -2:1}
command=${@: -1}
folder=%s
if [[ ! -f $folder/$host.sh ]]; then
    echo "ssh: Could not resolve hostname $host: nodename nor servname provided, or not known" >&2
    exit 255
fi
[[ "$*" == *BatchMode=yes* && "$*" == *ConnectTimeout=* ]] || exec sleep 60  # it would ask, and wait
cd /
source "$folder/$host.sh"
exec /bin/bash -c "$command"
"""
# Names of hosts -> what ssh prints there, before it exits with 255
REFUSALS = {
    "password": "me@password: Permission denied (publickey,password,keyboard-interactive).",
    "keys": "Received disconnect from 10.0.0.7 port 22:2: Too many authentication failures",
    "unknown-key": "Host key verification failed.",
    "changed-key": "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
    "refused": "ssh: connect to host refused port 22: Connection refused",
    "asleep": "ssh: connect to host asleep port 22: Operation timed out",
    "elsewhere": "ssh: connect to host elsewhere port 22: No route to host",
}
# Names of hosts -> Python that runs there before everything else
PYTHON = {
    "older": "import mlx_sd.core.version as version; version.VERSION = '0.0.9'",
    "other-mlx": "import importlib.metadata as m; v = m.version; m.version = lambda n: v(n) + '.9' * (n == 'mlx')",
    "hour": "import time; clock = time.time; time.time = lambda: clock() + 3600",
    "no-mlx": "import sys; sys.modules['mlx.core'] = None",
}
# Names of hosts -> what their shell does first
SHELL = {
    "fine": "",
    "hangs": "exec sleep 60",
    "noisy": "echo 'Welcome to noisy'; echo '{\"json\": 1}'",
    "crashes": """echo '{"mlx_sd_hosts": 1, "version": "0.1.0"}'; echo 'Killed: 9' >&2; exit 137""",
    "babbles": """echo '{"mlx_sd_hosts": 1, "version": "0.1.0"}'; echo 'what?'; sleep 5""",
    "newer": """echo '{"mlx_sd_hosts": 2, "version": "9.0"}'; sleep 5""",
    "no-module": "command=${command/ -m mlx_sd/ -S -E -m mlx_sd}; unset PYTHONPATH",
    "no-python": "command=${command/'cmd=('/'cmd=(/nowhere'}",
    "no-folder": "command=${command//-d /-d /nowhere}",
}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, shell: Mapping[str, str] | None = None) -> None:
    """Puts the program first in PATH; shell: more hosts, by what their shells do first."""
    hosts = folder / "hosts"
    hosts.mkdir()
    for name, text in REFUSALS.items():
        (hosts / f"{name}.sh").write_text(f"echo '{text}' >&2; exit 255\n")
    for name, text in PYTHON.items():
        (hosts / name).mkdir()
        (hosts / name / "sitecustomize.py").write_text(text)
        (hosts / f"{name}.sh").write_text(f"export PYTHONPATH={hosts / name}:$PYTHONPATH\n")
    for name, text in (SHELL | dict(shell or {})).items():
        (hosts / f"{name}.sh").write_text(f"{text}\n")
    program = folder / "ssh"
    program.write_text(_SSH % hosts)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
